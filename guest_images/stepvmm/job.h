/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_JOB_H
#define STEPVMM_JOB_H

#include <stddef.h>
#include <step_abi.h>

struct job {
	const struct job_header *header;
	const struct operation *operations;
	const struct placement *placements;
	const uint8_t *payload;
	size_t payload_bytes;
};

/* Reads and checks /job and /payload from the initramfs. */
void job_load(struct job *job);

/* Runs every operation; ends L1 on the first that can't be done. */
void job_run(const struct job *job);

#endif
