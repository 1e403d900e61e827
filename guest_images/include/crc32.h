/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CRC-32 as zlib computes it (polynomial 0xedb88320, reflected), so that the
 * host checks a sealed file with zlib.crc32().
 */
#ifndef QEMU_DIFF_CRC32_H
#define QEMU_DIFF_CRC32_H

#include <stddef.h>
#include <stdint.h>

#ifdef __aarch64__
#include <asm/hwcap.h>
#include <string.h>
#include <sys/auxv.h>

/* CRC32X and CRC32B are of this polynomial (DDI 0487, FEAT_CRC32). */
__attribute__((target("+crc")))
static inline uint32_t crc32_instructions(uint32_t crc, const uint8_t *byte, size_t size)
{
	uint64_t word;

	for (; size >= sizeof(word); size -= sizeof(word), byte += sizeof(word)) {
		memcpy(&word, byte, sizeof(word));
		crc = __builtin_aarch64_crc32x(crc, word);
	}
	while (size--)
		crc = __builtin_aarch64_crc32b(crc, *byte++);
	return crc;
}
#endif

/* Continue a checksum; it begins with 0, as zlib's does. */
static inline uint32_t crc32_of(uint32_t before, const void *data, size_t size)
{
	static uint32_t table[256];
	const uint8_t *byte = data;
	uint32_t crc = ~before;

#ifdef __aarch64__
	if (getauxval(AT_HWCAP) & HWCAP_CRC32)
		return ~crc32_instructions(crc, data, size);
#endif
	if (!table[1]) {
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t value = i;

			for (int bit = 0; bit < 8; bit++)
				value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
			table[i] = value;
		}
	}
	while (size--)
		crc = (crc >> 8) ^ table[(crc ^ *byte++) & 0xff];
	return ~crc;
}

#endif
