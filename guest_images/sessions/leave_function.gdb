# step and next without line numbers go to the end of a function: as far as gdb knows, up to the
# next label. until without a place goes on to a higher address.
#! payload hvc
break *step_end
step
next
set var $pc = step_begin
until
until
until
advance *second_hvc
until *second_hvc+4
nexti 2
