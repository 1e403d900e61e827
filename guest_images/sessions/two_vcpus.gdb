# Two vCPUs: the first is stepped, alone or with the other let go, as gdb does it unless it is told
# not to. The second is turned on by the first.
#! payload two_vcpus
#! vcpus 2
stepi 2
set var $x5 = 300
tbreak *turn_on
continue
stepi
info registers x0
info threads
stepi
tbreak *in_count
continue
stepi
nexti
set scheduler-locking on
tbreak *in_count
continue
stepi
stepi
set scheduler-locking off
stepi 4
