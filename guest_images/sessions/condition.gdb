# Conditions: a breakpoint whose condition is false is stepped over, and L2 goes on; a watchpoint
# on a register is gdb's own: it steps, and looks after each step.
#! payload hvc
#! writer entry+4
#! writer first_hvc
break *step_end
tbreak *first_hvc+12
break *first_hvc if $x0 == 0
continue
delete
break *step_end
set var $pc = step_begin
watch $x0
continue
continue
info registers pc
delete
