# A sandbox that sleeps takes 5 MiB beyond the program's own pages, or 5 % more.
measure memory
