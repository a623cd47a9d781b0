/* SPDX-License-Identifier: Apache-2.0
 *
 * Module classes that torch itself has.  Private to the torch room.
 */
#ifndef PSD_TORCH_CLASS_H
#define PSD_TORCH_CLASS_H

#include "torch_known.h"

/* Where a module keeps what its state_dict() tells. */
typedef enum {
    PSD_CLASS_PLAIN,            /* in _parameters and _buffers, as all others */
    PSD_CLASS_COMPILED,         /* by torch.compile: called with the module itself */
    PSD_CLASS_SCALED,           /* scale and zero_point too, which are numbers */
    PSD_CLASS_CONV,             /* quantized; its state is a tuple */
    PSD_CLASS_PACKED_LINEAR,    /* dtype, and in a script object weight and bias */
    PSD_CLASS_PACKED_EMBEDDING, /* dtype, and in a script object the weight */
    PSD_CLASS_PACKED_PARAMETER, /* a script object */
    PSD_CLASS_CELL,             /* two script objects */
} psd_class_form;

typedef struct {
    uint8_t form;    /* psd_class_form */
    uint8_t version; /* what _metadata says of it */
} psd_class;

/* PLAIN and 1 for what torch does not have. */
psd_class psd_torch_class(const psd_global *global);

#endif
