/* SPDX-License-Identifier: Apache-2.0
 *
 * The closed list of globals that mean something to the torch pass.  Private to
 * the torch room.
 */
#ifndef PSD_TORCH_KNOWN_H
#define PSD_TORCH_KNOWN_H

#include "torch.h"

typedef enum {
    PSD_KNOWN_NOTHING,
    PSD_KNOWN_STORAGE, /* a typed storage class; the tag holds its dtype */
    PSD_KNOWN_UNTYPED_STORAGE,
    PSD_KNOWN_DTYPE,        /* torch.float32, ...; the tag holds it */
    PSD_KNOWN_SIZE,         /* torch.Size */
    PSD_KNOWN_TENSOR,       /* torch.Tensor */
    PSD_KNOWN_TENSOR_CLASS, /* torch.FloatTensor, ...; the tag holds its dtype */
    PSD_KNOWN_BUFFER,       /* torch.nn.parameter.Buffer */
    PSD_KNOWN_ENCODE,       /* _codecs.encode: bytes as protocol 2 spells them */
    PSD_KNOWN_LOAD_FROM_BYTES,
    PSD_KNOWN_ORDERED_DICT,   /* collections.OrderedDict */
    PSD_KNOWN_GETATTR,        /* builtins.getattr: of a bound method */
    PSD_KNOWN_COMPILED,       /* torch._dynamo.eval_frame.OptimizedModule */
    PSD_KNOWN_GRAPH_MODULE,   /* torch.fx.graph_module.reduce_graph_module */
    PSD_KNOWN_GET_LAYOUT,     /* torch.serialization._get_layout */
    PSD_KNOWN_TYPE_TAG,       /* torch.jit._pickle.restore_type_tag */
    PSD_KNOWN_QSCHEME,        /* torch.per_tensor_affine, ...; the tag holds it */
    PSD_KNOWN_PARAMETER,      /* torch.nn.parameter.Parameter */
    PSD_KNOWN_REBUILD_TENSOR, /* these three in this order */
    PSD_KNOWN_FIRST_FUNCTION = PSD_KNOWN_REBUILD_TENSOR,
    PSD_KNOWN_REBUILD_TENSOR_V2,
    PSD_KNOWN_REBUILD_TENSOR_V3,
    PSD_KNOWN_REBUILD_PARAMETER,
    PSD_KNOWN_REBUILD_PARAMETER_WITH_STATE,
    PSD_KNOWN_REBUILD_FROM_TYPE,
    PSD_KNOWN_REBUILD_META,
    PSD_KNOWN_REBUILD_DEVICE,
    PSD_KNOWN_REBUILD_QTENSOR,
    PSD_KNOWN_REBUILD_SPARSE,
    PSD_KNOWN_REBUILD_NESTED,
    PSD_KNOWN_REBUILD_JAGGED,
    PSD_KNOWN_REBUILD_WRAPPER,
    PSD_KNOWN_COUNT
} psd_known;

/* What a tag means: the upper byte is a psd_known, the lower a psd_dtype. */
static inline psd_known
psd_known_of(uint16_t tag)
{
    return (psd_known)(tag >> 8);
}

static inline psd_dtype
psd_known_dtype(uint16_t tag)
{
    return (psd_dtype)(tag & 0xFF);
}

/* The tag of a global; 0 if it means nothing here. */
uint16_t psd_known_find(psd_span module, psd_span name);

static inline void
psd_torch_recognise(psd_global *global)
{
    global->tag = psd_known_find(global->module, global->name);
}

#endif
