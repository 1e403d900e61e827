# Two vCPUs: one is stepped while the other runs, as gdb does it unless it is told not to, and then
# with the other held.
#! payload two_vcpus
#! vcpus 2
tbreak *turn_on
continue
stepi
stepi
info threads
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
thread 1
set scheduler-locking off
stepi
