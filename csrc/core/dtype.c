/* SPDX-License-Identifier: Apache-2.0 */
#include "dtype.h"

static const psd_dtype_info table[PSD_DTYPE_COUNT] = {
    [PSD_DTYPE_NONE] = {"none", "", 1, 1, '-', false},
#define PSD_DTYPE_ROW(id, name, scalar, size, unit, group, typed) \
    [PSD_DTYPE_##id] = {name, scalar, size, unit, group, typed},
    PSD_DTYPES(PSD_DTYPE_ROW)
#undef PSD_DTYPE_ROW
};

const psd_dtype_info *
psd_dtype_row(psd_dtype dtype)
{
    return &table[dtype];
}

static bool
is(const char *text, psd_span span)
{
    return strlen(text) == span.size && memcmp(text, span.data, span.size) == 0;
}

psd_dtype
psd_dtype_from_name(psd_span name)
{
    /* torch.float32.__name__ is "float32", yet old pickles hold the short names. */
    static const struct {
        const char *name;
        psd_dtype dtype;
    } aliases[] = {
        {"half", PSD_DTYPE_FLOAT16},       {"float", PSD_DTYPE_FLOAT32},
        {"double", PSD_DTYPE_FLOAT64},     {"short", PSD_DTYPE_INT16},
        {"int", PSD_DTYPE_INT32},          {"long", PSD_DTYPE_INT64},
        {"chalf", PSD_DTYPE_COMPLEX32},    {"cfloat", PSD_DTYPE_COMPLEX64},
        {"cdouble", PSD_DTYPE_COMPLEX128},
    };
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        if (is(table[i].name, name)) {
            return (psd_dtype)i;
        }
    }
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        if (is(aliases[i].name, name)) {
            return aliases[i].dtype;
        }
    }
    return PSD_DTYPE_NONE;
}

static psd_dtype
from_class(psd_span class_name, psd_span ending)
{
    if (class_name.size <= ending.size) {
        return PSD_DTYPE_NONE;
    }
    psd_span scalar = {class_name.data, class_name.size - ending.size};
    if (memcmp(class_name.data + scalar.size, ending.data, ending.size) != 0) {
        return PSD_DTYPE_NONE;
    }
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        if (is(table[i].scalar, scalar)) {
            return (psd_dtype)i;
        }
    }
    return PSD_DTYPE_NONE;
}

psd_dtype
psd_dtype_from_storage(psd_span class_name)
{
    return from_class(class_name, PSD_LITERAL("Storage"));
}

psd_dtype
psd_dtype_from_tensor(psd_span class_name)
{
    return from_class(class_name, PSD_LITERAL("Tensor"));
}
