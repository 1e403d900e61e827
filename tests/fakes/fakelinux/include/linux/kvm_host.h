struct vcpu {
	int flags;
	int pstate_ss;
};
