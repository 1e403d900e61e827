# A function with HVC in it: nexti over its call, finish out of it, advance and until behind it; and
# HVC just before a return, and just before a call.
#! payload called_hvc
# gdb takes a frame at SP 0 for the outermost.
set var $sp = stack
break *step_end
stepi 2
nexti
nexti
stepi
stepi
finish
set var $pc = entry+0x8
stepi
finish
set var $pc = entry+0x8
advance *entry+0xc
set var $pc = entry+0x8
until *entry+0xc
set var $pc = entry+0x8
tbreak *function+4
continue
nexti
nexti
finish
set var $pc = entry+0x1c
nexti
set var $pc = entry+0x1c
stepi
backtrace
