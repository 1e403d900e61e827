# Two vCPUs: one is stepped while the other runs, as gdb does it unless it is told not to, and then
# with the other held.
#! payload two_vcpus
#! vcpus 2
stepi 2
set var $x5 = 300
tbreak *count
continue
stepi 2
set var $x5 = 1000000
# vCPU 1 comes to its loop.
#! interrupt 0.5
continue
info threads
thread 1
tbreak *in_count
continue
stepi
nexti
set scheduler-locking on
tbreak *in_count
continue
stepi
stepi
thread 2
stepi
stepi
stepi
stepi 6
thread 1
set scheduler-locking off
stepi
