# kill -9 of any process of a sandbox at any moment, many sandboxes at once, and many after another: nothing is left.
# For the patient: `cargo xtask test --only jail-soak`.
#: timeout 600
exec jail-soak --kills 6 --victims supervisor,monitor,vmm,all,gofer,mounted-all --parallel 64 --sequence 20
