/* SPDX-License-Identifier: Apache-2.0 */
#include "torch_known.h"

static uint16_t
tag(psd_known known, psd_dtype dtype)
{
    return (uint16_t)((unsigned)known << 8 | (unsigned)dtype);
}

static uint16_t
tag_with_dtype(psd_known known, psd_dtype dtype)
{
    return dtype == PSD_DTYPE_NONE ? 0 : tag(known, dtype);
}

typedef struct {
    const char *name;
    psd_known known;
} row;

static uint16_t
find(const row *rows, size_t count, psd_span name)
{
    for (size_t i = 0; i < count; i++) {
        if (strlen(rows[i].name) == name.size &&
            memcmp(rows[i].name, name.data, name.size) == 0) {
            return tag(rows[i].known, PSD_DTYPE_NONE);
        }
    }
    return 0;
}

/* torch.FloatTensor, torch.FloatStorage, torch.float32, torch.Size, ... */
static uint16_t
find_torch(psd_span name)
{
    static const row rows[] = {
        {"Size", PSD_KNOWN_SIZE},
        {"Tensor", PSD_KNOWN_TENSOR},
        {"UntypedStorage", PSD_KNOWN_UNTYPED_STORAGE},
    };
    const struct {
        psd_span name;
        psd_qscheme scheme;
    } schemes[] = {
        {PSD_LITERAL("per_tensor_affine"), PSD_PER_TENSOR},
        {PSD_LITERAL("per_tensor_symmetric"), PSD_PER_TENSOR},
        {PSD_LITERAL("per_channel_affine"), PSD_PER_CHANNEL},
        {PSD_LITERAL("per_channel_symmetric"), PSD_PER_CHANNEL},
        {PSD_LITERAL("per_channel_affine_float_qparams"), PSD_PER_CHANNEL_FLOAT},
    };
    uint16_t found = find(rows, sizeof rows / sizeof *rows, name);
    for (unsigned i = 0; found == 0 && i < sizeof schemes / sizeof *schemes; i++) {
        if (psd_span_equal(name, schemes[i].name)) {
            return (uint16_t)(PSD_KNOWN_QSCHEME << 8 | schemes[i].scheme);
        }
    }
    if (found == 0) {
        found = tag_with_dtype(PSD_KNOWN_STORAGE, psd_dtype_from_storage(name));
    }
    if (found == 0) {
        found = tag_with_dtype(PSD_KNOWN_TENSOR_CLASS, psd_dtype_from_tensor(name));
    }
    if (found == 0) {
        found = tag_with_dtype(PSD_KNOWN_DTYPE, psd_dtype_from_name(name));
    }
    return found;
}

/* Device never changes a storage's meaning: torch.cuda.FloatStorage is torch's. */
static uint16_t
find_cuda(psd_span name)
{
    uint16_t found = find_torch(name);
    psd_known known = psd_known_of(found);
    return known == PSD_KNOWN_STORAGE || known == PSD_KNOWN_TENSOR_CLASS ? found : 0;
}

bool
psd_torch_is_plain(const psd_global *global, bool called)
{
    switch (psd_known_of(global->tag)) {
    case PSD_KNOWN_NOTHING:
    case PSD_KNOWN_GETATTR:
    case PSD_KNOWN_COMPILED:
    case PSD_KNOWN_GRAPH_MODULE: return false;
    case PSD_KNOWN_LOAD_FROM_BYTES: return !called;
    default: return true;
    }
}

uint16_t
psd_known_find(psd_span module, psd_span name)
{
    static const row utils[] = {
        {"_rebuild_tensor_v2", PSD_KNOWN_REBUILD_TENSOR_V2},
        {"_rebuild_parameter", PSD_KNOWN_REBUILD_PARAMETER},
        {"_rebuild_tensor_v3", PSD_KNOWN_REBUILD_TENSOR_V3},
        {"_rebuild_tensor", PSD_KNOWN_REBUILD_TENSOR},
        {"_rebuild_parameter_with_state", PSD_KNOWN_REBUILD_PARAMETER_WITH_STATE},
        {"_rebuild_meta_tensor_no_storage", PSD_KNOWN_REBUILD_META},
        {"_rebuild_device_tensor_from_cpu_tensor", PSD_KNOWN_REBUILD_DEVICE},
        {"_rebuild_qtensor", PSD_KNOWN_REBUILD_QTENSOR},
        {"_rebuild_sparse_tensor", PSD_KNOWN_REBUILD_SPARSE},
        {"_rebuild_sparse_csr_tensor", PSD_KNOWN_REBUILD_SPARSE},
        {"_rebuild_nested_tensor", PSD_KNOWN_REBUILD_NESTED},
        {"_rebuild_wrapper_subclass", PSD_KNOWN_REBUILD_WRAPPER},
    };
    static const row serialization[] = {{"_get_layout", PSD_KNOWN_GET_LAYOUT}};
    static const row nested[] = {{"_rebuild_njt", PSD_KNOWN_REBUILD_JAGGED}};
    static const row storage[] = {
        {"UntypedStorage", PSD_KNOWN_UNTYPED_STORAGE},
        {"_UntypedStorage", PSD_KNOWN_UNTYPED_STORAGE},
        {"_load_from_bytes", PSD_KNOWN_LOAD_FROM_BYTES},
    };
    static const row codecs[] = {{"encode", PSD_KNOWN_ENCODE}};
    static const row collections[] = {{"OrderedDict", PSD_KNOWN_ORDERED_DICT}};
    static const row builtins[] = {{"getattr", PSD_KNOWN_GETATTR}};
    static const row compiled[] = {{"OptimizedModule", PSD_KNOWN_COMPILED}};
    static const row graph[] = {
        {"reduce_graph_module", PSD_KNOWN_GRAPH_MODULE},
        {"reduce_package_graph_module", PSD_KNOWN_GRAPH_MODULE},
        {"reduce_deploy_graph_module", PSD_KNOWN_GRAPH_MODULE},
    };
    static const row script[] = {{"restore_type_tag", PSD_KNOWN_TYPE_TAG}};
    static const row tensor[] = {
        {"_rebuild_from_type_v2", PSD_KNOWN_REBUILD_FROM_TYPE},
        {"_rebuild_from_type", PSD_KNOWN_REBUILD_FROM_TYPE},
    };
    static const row parameter[] = {
        {"Parameter", PSD_KNOWN_PARAMETER},
        {"Buffer", PSD_KNOWN_BUFFER},
    };
#define FIND(rows) find(rows, sizeof rows / sizeof *rows, name)
    if (psd_span_equal(module, PSD_LITERAL("torch._utils"))) {
        return FIND(utils);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch"))) {
        return find_torch(name);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch.storage"))) {
        return FIND(storage);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch._tensor")) ||
        psd_span_equal(module, PSD_LITERAL("torch.tensor"))) {
        return FIND(tensor);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch.nn.parameter"))) {
        return FIND(parameter);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch.cuda"))) {
        return find_cuda(name);
    }
    if (psd_span_equal(module, PSD_LITERAL("collections"))) {
        return FIND(collections);
    }
    if (psd_span_equal(module, PSD_LITERAL("_codecs"))) {
        return FIND(codecs);
    }
    if (psd_span_equal(module, PSD_LITERAL("__builtin__")) ||
        psd_span_equal(module, PSD_LITERAL("builtins"))) {
        return FIND(builtins);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch.fx.graph_module"))) {
        return FIND(graph);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch._dynamo.eval_frame"))) {
        return FIND(compiled);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch.jit._pickle"))) {
        return FIND(script);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch.serialization"))) {
        return FIND(serialization);
    }
    if (psd_span_equal(module, PSD_LITERAL("torch.nested._internal.nested_tensor"))) {
        return FIND(nested);
    }
    return 0;
#undef FIND
}
