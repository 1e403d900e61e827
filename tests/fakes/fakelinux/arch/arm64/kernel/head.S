/* The header of an arm64 Image: Documentation/arm64/booting.rst. */
	.text
	nop
	b	main
	.quad	0			/* text_offset */
	.quad	0			/* image_size */
	.quad	0			/* flags */
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0
