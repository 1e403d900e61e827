# gdb goes and comes again between two steps, as with a target that is left alone for a while.
#! payload hvc
break *second_hvc
stepi 2
#! reconnect
stepi
#! reconnect
continue
#! reconnect
stepi
stepi
