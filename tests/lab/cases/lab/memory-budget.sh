# A sandbox that sleeps takes at most 5 MiB beyond the program's own pages.
measure memory
