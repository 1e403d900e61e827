int setup_debug(void);

int fork(void)
{
	int pid = 1;

	pid += setup_debug();

	return pid;
}
