#include <linux/kvm_host.h>

static struct vcpu vcpu;

/* Enter the guest. */
int setup_debug(void)
{
	if (!vcpu.flags)
		vcpu.pstate_ss = 1;
	else
		vcpu.pstate_ss = 0;

	return vcpu.pstate_ss;
}
