# stepi over a register that KVM emulates: its step is lost only where an interrupt of L1's comes at
# the right moment, so both kernels mostly do it well.
#! payload trapped_sysreg
display/i $pc
stepi
stepi
stepi
stepi
set var $pc = step_begin
stepi 4
set var $pc = trapped_read
stepi
info registers x0
