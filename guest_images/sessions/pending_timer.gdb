# An interrupt is pending while L2 is stepped: stepi ends in the handler's vector, with nothing of
# the interrupted code executed. gdb has no way to hold interrupts off under KVM.
#! payload virtual_timer
#! interrupts
set var $pc = irq_setup
advance *irq_ready
set var $pc = step_begin
set var $cpsr = 0x345
stepi 3
stepi
stepi
x/i $pc
stepi
stepi
info registers pc
break *step_end
continue
