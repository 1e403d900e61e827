# A breakpoint at HVC only, and stepping on from it.
#! payload hvc
break *step_end
break *first_hvc
break *second_hvc
continue
stepi
stepi 2
continue
nexti
info registers pc
