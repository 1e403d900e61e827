/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CRC-32 as zlib computes it (polynomial 0xedb88320, reflected), so that the
 * host checks a sealed file with zlib.crc32().
 */
#ifndef QEMU_DIFF_CRC32_H
#define QEMU_DIFF_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continue a checksum; it begins with 0, as zlib's does. */
static inline uint32_t crc32_of(uint32_t before, const void *data, size_t size)
{
	static uint32_t table[256];
	const uint8_t *byte = data;
	uint32_t crc = ~before;

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
