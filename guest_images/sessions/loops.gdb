# What people write to step up to a place: a loop with stepi, and a breakpoint's commands. A step
# that is lost goes past the place, and the loop goes on.
#! payload hvc
break *step_end
set $steps = 0
while $pc != first_hvc+4 && $steps < 6
  stepi
  set $steps = $steps + 1
end
print $steps
set var $pc = step_begin
break *second_hvc
commands
  silent
  stepi
  x/i $pc
end
continue
info registers pc
