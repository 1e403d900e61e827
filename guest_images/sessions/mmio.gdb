# stepi, nexti and a breakpoint at loads and stores that QEMU serves as a device.
#! payload mmio_user
display/i $pc
stepi 2
stepi
stepi
nexti
nexti
set var $pc = write
break *read
continue
stepi
info registers x0
