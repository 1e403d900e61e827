# stepi over HVC, which KVM handles in the kernel; the display shows each instruction before it is
# executed. A lost step is an instruction that the display never shows.
#! payload hvc
display/i $pc
stepi
stepi
stepi
stepi
x/2i $pc
si 3
info registers pc x0 x1
