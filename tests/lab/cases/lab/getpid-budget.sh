# getpid in a loop causes no VM exit and takes less than natively.
#: timeout 120
measure getpid
