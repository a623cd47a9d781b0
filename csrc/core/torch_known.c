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

/* torch.FloatTensor, torch.FloatStorage, torch.float32, torch.Size */
static uint16_t
find_torch(psd_span name)
{
    static const row rows[] = {
        {"Size", PSD_KNOWN_SIZE},
        {"Tensor", PSD_KNOWN_TENSOR},
        {"UntypedStorage", PSD_KNOWN_UNTYPED_STORAGE},
    };
    uint16_t found = find(rows, sizeof rows / sizeof *rows, name);
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
    };
    static const row storage[] = {
        {"UntypedStorage", PSD_KNOWN_UNTYPED_STORAGE},
        {"_UntypedStorage", PSD_KNOWN_UNTYPED_STORAGE},
    };
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
    return 0;
#undef FIND
}
