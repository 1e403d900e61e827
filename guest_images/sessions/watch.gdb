# A watchpoint on memory: while L2 runs, while it is stepped onto the store, and where the store
# stands behind HVC. At the end gdb watches without the hardware: it steps, and looks.
#! payload watched
#! writer plain_store
#! writer hidden_store
break *step_end
watch *(long *) &cell
continue
continue
continue
set var *(long *) &cell = 0
set var $pc = plain_store
stepi
stepi 3
stepi
stepi
set var *(long *) &cell = 0
delete
set can-use-hw-watchpoints 0
break *step_end
watch *(long *) &cell
set var $pc = plain_store
continue
continue
