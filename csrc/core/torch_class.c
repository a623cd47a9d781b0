/* SPDX-License-Identifier: Apache-2.0
 *
 * What is known of torch's own module classes by their names: the version that
 * their state_dict() states, and how those that keep their weights elsewhere than
 * in _parameters and _buffers tell them.
 * Sources: torch/nn/modules/batchnorm.py and instancenorm.py, torch/ao/nn/quantized,
 * and torch/ao/nn/intrinsic/quantized (torch/nn/... before 1.13).
 */
#include "torch_class.h"

static bool
cut_prefix(psd_span *text, psd_span prefix)
{
    bool begins =
        text->size >= prefix.size && memcmp(text->data, prefix.data, prefix.size) == 0;
    if (begins) {
        text->data += prefix.size;
        text->size -= prefix.size;
    }
    return begins;
}

static bool
begins_with(psd_span text, psd_span prefix)
{
    return cut_prefix(&text, prefix);
}

static bool
ends_with(psd_span text, psd_span ending)
{
    return text.size >= ending.size &&
           memcmp(text.data + text.size - ending.size, ending.data, ending.size) == 0;
}

/* Leaves of a module's path only what follows "quantized.modules."; false for
 * others.  *dynamic: weights are quantized, and numbers on the way are not. */
static bool
is_quantized(psd_span *path, bool *dynamic)
{
    if (!cut_prefix(path, PSD_LITERAL("torch.ao.nn.")) &&
        !cut_prefix(path, PSD_LITERAL("torch.nn."))) {
        return false;
    }
    if (!cut_prefix(path, PSD_LITERAL("intrinsic."))) {
        (void)cut_prefix(path, PSD_LITERAL("_intrinsic."));
    }
    if (!cut_prefix(path, PSD_LITERAL("quantized."))) {
        return false;
    }
    *dynamic = cut_prefix(path, PSD_LITERAL("dynamic."));
    return cut_prefix(path, PSD_LITERAL("modules."));
}

static psd_class
quantized_class(psd_span file, psd_span name, bool dynamic)
{
    const psd_span linear = PSD_LITERAL("linear");
    if (begins_with(file, linear)) {
        if (psd_span_equal(name, PSD_LITERAL("LinearPackedParams"))) {
            return (psd_class){PSD_CLASS_PACKED_LINEAR, 3};
        }
        return (psd_class){PSD_CLASS_SCALED, dynamic ? 4 : 3};
    }
    if (begins_with(file, PSD_LITERAL("conv")) &&
        begins_with(name, PSD_LITERAL("Conv"))) {
        return (psd_class){PSD_CLASS_CONV, 1};
    }
    if (psd_span_equal(name, PSD_LITERAL("EmbeddingPackedParams"))) {
        return (psd_class){PSD_CLASS_PACKED_EMBEDDING, 1};
    }
    if (psd_span_equal(name, PSD_LITERAL("QFunctional"))) {
        return (psd_class){PSD_CLASS_SCALED, 1};
    }
    if (dynamic && psd_span_equal(file, PSD_LITERAL("rnn"))) {
        if (psd_span_equal(name, PSD_LITERAL("PackedParameter"))) {
            return (psd_class){PSD_CLASS_PACKED_PARAMETER, 1};
        }
        return ends_with(name, PSD_LITERAL("Cell")) ? (psd_class){PSD_CLASS_CELL, 1}
                                                    : (psd_class){PSD_CLASS_PLAIN, 2};
    }
    return (psd_class){PSD_CLASS_PLAIN, 1};
}

static bool
is_observer(psd_span path, psd_span name)
{
    return psd_span_equal(path, PSD_LITERAL("torch.ao.quantization.observer")) &&
           (ends_with(name, PSD_LITERAL("MinMaxObserver")) ||
            psd_span_equal(name, PSD_LITERAL("HistogramObserver")));
}

static bool
is_fused_in_training(psd_span path, psd_span name)
{
    const psd_span file = PSD_LITERAL("torch.ao.nn.intrinsic.qat.modules.conv_fused");
    return psd_span_equal(path, file) && begins_with(name, PSD_LITERAL("ConvBn"));
}

psd_class
psd_torch_class(const psd_global *global)
{
    bool dynamic;
    psd_span path = global->module;
    if (psd_known_of(global->tag) == PSD_KNOWN_COMPILED) {
        return (psd_class){PSD_CLASS_COMPILED, 1};
    }
    if (psd_span_equal(path, PSD_LITERAL("torch.nn.modules.batchnorm")) ||
        psd_span_equal(path, PSD_LITERAL("torch.nn.modules.instancenorm"))) {
        return (psd_class){PSD_CLASS_PLAIN, 2};
    }
    if (is_observer(path, global->name)) {
        return (psd_class){PSD_CLASS_PLAIN, 3};
    }
    if (is_fused_in_training(path, global->name)) {
        return (psd_class){PSD_CLASS_PLAIN, 2};
    }
    return is_quantized(&path, &dynamic) ? quantized_class(path, global->name, dynamic)
                                         : (psd_class){PSD_CLASS_PLAIN, 1};
}
