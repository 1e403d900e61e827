# Breakpoints at HVC and behind it. To go on from a breakpoint gdb takes it out and steps over the
# instruction; the one behind stays in place and stops L2, whether the step is lost or not.
#! payload hvc
break *first_hvc
break *first_hvc+4
continue
continue
info breakpoints
stepi
delete
# The same with hardware breakpoints.
set var $pc = step_begin
hbreak *second_hvc
hbreak *second_hvc+4
continue
continue
stepi
delete
# Temporary, and only at the second: stepi ends at it, too.
set var $pc = second_hvc
tbreak *second_hvc+4
stepi
stepi
