const char linux_banner[] = "Linux version 6.1.0-fake (qemu-diff@qemu-diff) #1\n";

int fork(void);

int main(void)
{
	return fork() + linux_banner[0];
}
