/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_MARKS_H
#define STEPVMM_MARKS_H

/*
 * Each mark is one reserved HINT at an address of its own, which the host reads
 * from this program's symbol table (it is linked at a fixed address). L2 never
 * runs at these addresses, so it can't forge a mark.
 */
void mark_returned(void);	/* after each return from KVM_RUN */
void mark_job_begin(void);
void mark_job_end(void);

#endif
