# Ctrl-C in a loop, and stepping on from wherever that is; then the loop is left to a breakpoint.
#! payload polling
break *step_end
stepi 2
set var $x5 = 1000000
#! interrupt 0.3
continue
stepi
stepi
stepi
stepi
stepi
stepi
#! interrupt 0.2
continue
stepi 4
set var $x5 = 2
continue
