# A function with HVC in it: nexti over its call, finish out of it, advance and until behind it; and
# HVC just before a return, and just before a call.
#! payload called_hvc
break *step_end
stepi
nexti
nexti
stepi
stepi
stepi
finish
set var $pc = call
stepi
finish
set var $pc = call
advance *after_call
set var $pc = call
until *after_call
set var $pc = call
tbreak *inner_hvc
continue
nexti
nexti
finish
set var $pc = hvc_then_call
nexti
set var $pc = hvc_then_call
stepi
