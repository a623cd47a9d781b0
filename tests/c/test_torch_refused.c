/* SPDX-License-Identifier: Apache-2.0
 *
 * The torch pass: what it refuses, by which name, with which words and at which
 * byte.  In the programs ^ stands before the byte at fault.
 */
#include "torch_expect.h"

/* ---------------------------------------------------------------- persistent ids */

#define BAD_ID(parts, sentence, key) \
    REFUSED("(" parts "t^Q", PSD_STORAGE, sentence, key, false, 0, 0)

static void
test_persistent_ids(void)
{
    static const char no_storage[] = "a persistent id that does not name a storage";
    static const char not_five[] = "a storage's persistent id does not have five parts";
    static const char bad_key[] = "a storage's key is neither text nor a whole number";
    static const char bad_class[] = "a storage's class is not a storage class of torch";
    REFUSED("V0\n^Q", PSD_STORAGE, no_storage, "", false, 0, 0);
    REFUSED("I5\n^Q", PSD_STORAGE, no_storage, "", false, 0, 0);
    REFUSED(")^Q", PSD_STORAGE, no_storage, "", false, 0, 0);
    REFUSED("^Pstorage\n", PSD_STORAGE, no_storage, "", false, 0, 0);
    BAD_ID("Vmodule\nctorch\nFloatStorage\nV0\nVcpu\nI1\n", no_storage, "");
    BAD_ID("I1\nctorch\nFloatStorage\nV0\nVcpu\nI1\n", no_storage, "");
    BAD_ID("Vstorage\n", not_five, "");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV0\nVcpu\n", not_five, "");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1\nN", not_five, "");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nNVcpu\nI1\n", bad_key, "");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nI-1\nVcpu\nI1\n", bad_key, "");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nI01\nVcpu\nI1\n", bad_key, "");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nF1\nVcpu\nI1\n", bad_key, "");
    BAD_ID("Vstorage\nNV7\nVcpu\nI1\n", bad_class, "7");
    BAD_ID("Vstorage\nVFloatStorage\nV7\nVcpu\nI1\n", bad_class, "7");
    BAD_ID("Vstorage\ncos\nsystem\nV7\nVcpu\nI1\n", bad_class, "7");
    BAD_ID("Vstorage\ncos\nFloatStorage\nV7\nVcpu\nI1\n", bad_class, "7");
    BAD_ID("Vstorage\nctorch\nFloatTensor\nV7\nVcpu\nI1\n", bad_class, "7");
    BAD_ID("Vstorage\nctorch\nNoStorage\nV7\nVcpu\nI1\n", bad_class, "7");
    BAD_ID("Vstorage\nctorch.cuda\nUntypedStorage\nV7\nVcpu\nI1\n", bad_class, "7");
    BAD_ID("Vstorage\nctorch\nfloat32\nV7\nVcpu\nI1\n", bad_class, "7");
}

static void
test_numbers_of_elements(void)
{
    static const char no_number[] =
        "a storage's number of elements is not a whole number";
    static const char overflows[] = "a storage's size in bytes overflows";
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nN", no_number, "7");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nI-1\n", no_number, "7");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nF4\n", no_number, "7");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nI01\n", no_number, "7");
    /* 2^64 is a LONG */
    BAD_ID("Vstorage\nctorch\nByteStorage\nV7\nVcpu\nL18446744073709551616L\n",
           no_number, "7");
    /* 2^62 * 4 wraps to 0; 2^61 * 4 does not fit in 63 bits */
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nI4611686018427387904\n",
           overflows, "7");
    BAD_ID("Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nI2305843009213693952\n",
           overflows, "7");
}

static void
test_storages_that_contradict(void)
{
    static const char differently[] =
        "two persistent ids tell differently of one storage";
#define TWICE(second)                                                             \
    REFUSED("(" STORAGE("FloatStorage", "7", "6") "(" second "t^Qt", PSD_STORAGE, \
            differently, "7", false, 0, 0)
    TWICE("Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nI5\n");
    TWICE("Vstorage\nctorch\nIntStorage\nV7\nVcpu\nI6\n");
    TWICE("Vstorage\nctorch\nDoubleStorage\nI7\nVcpu\nI3\n");
    TWICE("Vstorage\nctorch.storage\nUntypedStorage\nV7\nVcpu\nI24\n");
#undef TWICE
    REFUSED("(" UNTYPED("7", "6") "(Vstorage\nctorch\nByteStorage\nV7\nVcpu\nI6\nt^Qt",
            PSD_STORAGE, differently, "7", false, 0, 0);
}

/* One huge key named often would be hashed and compared each time. */
static void
test_huge_texts_of_storages(void)
{
    static char text[2049];
    memset(text, 'k', sizeof text);
    for (unsigned which = 0; which < 2; which++) {
        for (int size = 2048; size <= 2049; size++) {
            char marked[3000];
            int length =
                snprintf(marked, sizeof marked,
                         "(Vstorage\nctorch\nByteStorage\nV%.*s\nV%.*s\nI1\nt^Q.",
                         which == 0 ? size : 1, text, which == 0 ? 3 : size, text);
            psd_span span = {(const uint8_t *)marked, (size_t)length};
            if (size == 2049) {
                refused(span,
                        &(refusal){PSD_STORAGE,
                                   which == 0
                                       ? "a storage's key is longer than 2 KiB"
                                       : "a storage's location is longer than 2 KiB",
                                   which == 0 ? "" : "k", false, 0, 0},
                        __LINE__);
                continue;
            }
            uint8_t room[3000];
            uint64_t at;
            modelling m;
            model(&m, without_caret(span, room, &at));
            CHECK(m.status == PSD_OK);
            finish_model(&m);
        }
    }
}

/* ---------------------------------------------------------------- arguments */

#define BAD_V2(window, sentence)                                                  \
    REFUSED(BAD("_rebuild_tensor_v2", window FALSE_ HOOKS), PSD_TENSOR, sentence, \
            "_rebuild_tensor_v2", false, 0, 0)
#define BAD_COUNT(name, args, found, expected)                                       \
    REFUSED(BAD(name, args), PSD_TENSOR,                                             \
            "a rebuild function has a wrong number of arguments", name, true, found, \
            expected)

#define WHOLE SIX I("0") TWO_BY_THREE

static void
test_numbers_of_arguments(void)
{
    BAD_COUNT("_rebuild_tensor", "", 0, 4);
    BAD_COUNT("_rebuild_tensor", SIX I("0") "(I6\nt", 3, 4);
    BAD_COUNT("_rebuild_tensor", WHOLE "N", 5, 4);
    BAD_COUNT("_rebuild_tensor_v2", WHOLE FALSE_, 5, 6);
    BAD_COUNT("_rebuild_tensor_v2", WHOLE FALSE_ HOOKS "NN", 8, 6);
    BAD_COUNT("_rebuild_tensor_v3", WHOLE FALSE_ HOOKS, 6, 7);
    BAD_COUNT("_rebuild_tensor_v3", WHOLE FALSE_ HOOKS "ctorch\nint8\nNN", 9, 7);
}

static void
test_arguments_that_are_no_tuple(void)
{
    static const char sentence[] = "a rebuild function's arguments are no tuple";
    REFUSED("ctorch._utils\n_rebuild_tensor_v2\n]^R", PSD_TENSOR, sentence,
            "_rebuild_tensor_v2", false, 0, 0);
    REFUSED("ctorch._utils\n_rebuild_parameter\nN^R", PSD_TENSOR, sentence,
            "_rebuild_parameter", false, 0, 0);
    REFUSED("ctorch._utils\n_rebuild_tensor\n" SIX "^R", PSD_TENSOR, sentence,
            "_rebuild_tensor", false, 0, 0);
    REFUSED("ctorch.nn.parameter\nParameter\n]^R", PSD_TENSOR, sentence, "Parameter",
            false, 0, 0);
}

static void
test_storage_and_offset(void)
{
    static const char no_storage[] =
        "a tensor is rebuilt from something that is no storage";
    static const char no_offset[] = "a tensor's storage offset is not a whole number";
    BAD_V2("N" I("0") TWO_BY_THREE, no_storage);
    BAD_V2(TENSOR I("0") TWO_BY_THREE, no_storage);
    BAD_V2("V0\n" I("0") TWO_BY_THREE, no_storage);
    BAD_V2(SIX "N" TWO_BY_THREE, no_offset);
    BAD_V2(SIX "F0\n" TWO_BY_THREE, no_offset);
    BAD_V2(SIX FALSE_ TWO_BY_THREE, no_offset);
    BAD_V2(SIX "L36893488147419103232L\n" TWO_BY_THREE, no_offset);
}

static void
test_flags(void)
{
    REFUSED(BAD("_rebuild_tensor_v2", WHOLE "I1\n" HOOKS), PSD_TENSOR,
            "a tensor's requires_grad is not a bool", "_rebuild_tensor_v2", false, 0,
            0);
    REFUSED(BAD("_rebuild_tensor_v2", WHOLE "N" HOOKS), PSD_TENSOR,
            "a tensor's requires_grad is not a bool", "_rebuild_tensor_v2", false, 0,
            0);
    static const char no_dtype[] = "a tensor's dtype is not a dtype of torch";
#define BAD_DTYPE(dtype)                                                               \
    REFUSED(BAD("_rebuild_tensor_v3", WHOLE FALSE_ HOOKS dtype), PSD_TENSOR, no_dtype, \
            "_rebuild_tensor_v3", false, 0, 0)
    BAD_DTYPE("N");
    BAD_DTYPE("Vfloat32\n");
    BAD_DTYPE("ctorch\nfloat33\n");
    BAD_DTYPE("ctorch\nFloatStorage\n");
    BAD_DTYPE("cnumpy\nfloat32\n");
#undef BAD_DTYPE
}

/* One huge dict, shared by all tensors, must not be walked for each. */
static void
test_metadata_beyond_all_bounds(void)
{
    char program[4096] = "ctorch._utils\n_rebuild_tensor_v2\n(" WHOLE FALSE_ HOOKS "(";
    for (unsigned i = 0; i < 65; i++) {
        strcat(program, "K\x01K\x01");
    }
    strcat(program, "dt^R.");
    refused((psd_span){(const uint8_t *)program, strlen(program)},
            &(refusal){PSD_TENSOR, "a tensor's metadata has too many entries",
                       "_rebuild_tensor_v2", false, 0, 0},
            __LINE__);
}

/* torch takes the bit for set whatever it says, so it must not say anything else. */
static void
test_bits_that_are_not_set(void)
{
    static const char not_set[] = "a tensor's conj or neg bit is told as not set";
#define BAD_BITS(metadata)                                                      \
    REFUSED(BAD("_rebuild_tensor_v2", WHOLE FALSE_ HOOKS metadata), PSD_TENSOR, \
            not_set, "_rebuild_tensor_v2", false, 0, 0)
    BAD_BITS("(Vconj\nI00\nd");
    BAD_BITS("(Vneg\nI1\nd");
    BAD_BITS("(Vneg\nI01\nVneg\nNd");
}

/* ---------------------------------------------------------------- geometry */

static void
test_forms_of_sizes(void)
{
    static const char no_tuple[] = "a tensor's size or stride is not a tuple";
    static const char no_number[] = "a tensor's size or stride is not a whole number";
    BAD_V2(SIX I("0") "I6\n(I1\nt", no_tuple);
    BAD_V2(SIX I("0") "(I6\ntI1\n", no_tuple);
    BAD_V2(SIX I("0") "N(I1\nt", no_tuple);
    BAD_V2(SIX I("0") "(d(I1\nt", no_tuple);
    BAD_V2(SIX I("0") "ctorch\nSize\n)R(I1\nt", no_tuple);
    BAD_V2(SIX I("0") "ctorch\nSize\n(I6\ntR(I1\nt", no_tuple);
    BAD_V2(SIX I("0") "cos\nsystem\n((I6\nttR(I1\nt", no_tuple);
    BAD_V2(SIX I("0") "(I6\nt(t", "a tensor has not as many strides as sizes");
    BAD_V2(SIX I("0") "(t(I1\nt", "a tensor has not as many strides as sizes");
    BAD_V2(SIX I("0") "(I2\nI3\nt(I1\nt", "a tensor has not as many strides as sizes");
    BAD_V2(SIX I("0") "(F6\nt(I1\nt", no_number);
    BAD_V2(SIX I("0") "(I01\nt(I1\nt", no_number);
    BAD_V2(SIX I("0") "(I6\nt(I01\nt", no_number);
    BAD_V2(SIX I("0") "(Nt(I1\nt", no_number);
    BAD_V2(SIX I("0") "(I6\nt(V1\nt", no_number);
    BAD_V2(SIX I("0") "(L18446744073709551617L\nt(I1\nt", no_number);
}

#define BEYOND(window, reach, room)                                                   \
    REFUSED(BAD("_rebuild_tensor_v2", window FALSE_ HOOKS), PSD_TENSOR,               \
            "a tensor reaches beyond its storage", "_rebuild_tensor_v2", true, reach, \
            room)

/* Section 8.1 of the format's description, line by line. */
static void
test_windows_beyond_the_storage(void)
{
    BEYOND(SIX I("0") "(I7\nt(I1\nt", 6, 6);
    BEYOND(SIX I("1") "(I6\nt(I1\nt", 6, 6);
    BEYOND(SIX I("6") "(t(t", 6, 6);
    BEYOND(SIX I("9223372036854775807") "(t(t", INT64_MAX, 6);
    BEYOND(SIX I("0") "(I2\nt(I6\nt", 6, 6);
    BEYOND(SIX I("0") "(I2\nI3\nt(I4\nI1\nt", 6, 6);
    BEYOND(SIX I("6") "(I1\nI1\nt(I1\nI1\nt", 6, 6);
    BEYOND(SIX I("6") "(I5\nt(I0\nt", 6, 6);
    BEYOND(STORAGE("FloatStorage", "0", "0") I("0") "(t(t", 0, 0);
    BEYOND(STORAGE_AT("torch", "FloatStorage", "0", "meta", "6") I("0") "(I7\nt(I1\nt",
           6, 6);
    /* Of the storage's bytes, seen as eight at a time, three items are whole. */
    REFUSED(BAD("_rebuild_tensor_v3",
                SIX I("0") "(I4\nt(I1\nt" FALSE_ HOOKS "ctorch\nint64\n"),
            PSD_TENSOR, "a tensor reaches beyond its storage", "_rebuild_tensor_v3",
            true, 3, 3);
    REFUSED(BAD("_rebuild_tensor_v3",
                UNTYPED("0", "3") I("0") "(t(t" FALSE_ HOOKS "ctorch\nfloat32\n"),
            PSD_TENSOR, "a tensor reaches beyond its storage", "_rebuild_tensor_v3",
            true, 0, 0);
}

/* Sums and products that would wrap to something small. */
static void
test_reaches_that_wrap(void)
{
    static const char beyond[] = "a tensor reaches beyond its storage";
    static const char *const windows[] = {
        /* (2 - 1) * (2^63 - 1), twice, and 2 more: 2^64 */
        "I2\n(I2\nI2\nt(I9223372036854775807\nI9223372036854775807\nt",
        /* (2^32) * (2^32): 2^64 */
        "I0\n(I4294967297\nt(I4294967296\nt",
        "I0\n(I2\nI4294967297\nt(I1\nI4294967296\nt",
    };
    for (size_t i = 0; i < LENGTH(windows); i++) {
        char marked[512];
        (void)snprintf(marked, sizeof marked, BAD("_rebuild_tensor", SIX "%s") ".",
                       windows[i]);
        uint8_t room[512];
        uint64_t at;
        modelling m;
        model(&m,
              without_caret((psd_span){(uint8_t *)marked, strlen(marked)}, room, &at));
        CHECK(m.status == PSD_TENSOR);
        CHECK(m.status == PSD_OK || strcmp(m.r.err.sentence, beyond) == 0);
        CHECK_UINT(m.r.err.offset, at);
        finish_model(&m);
    }
}

static void
test_negative_numbers(void)
{
    BAD_V2(SIX I("-1") "(I1\nt(I1\nt", "a tensor's storage offset is negative");
    BAD_V2(SIX I("-9223372036854775808") "(t(t",
           "a tensor's storage offset is negative");
    BAD_V2(SIX I("0") "(I-1\nt(I1\nt", "a tensor's size is negative");
    BAD_V2(SIX I("0") "(I-2\nI-3\nt(I1\nI1\nt", "a tensor's size is negative");
    BAD_V2(SIX I("0") "(I0\nI-1\nt(I1\nI1\nt", "a tensor's size is negative");
    BAD_V2(SIX I("5") "(I2\nt(I-1\nt", "a tensor's stride is negative");
    BAD_V2(SIX I("5") "(I2\nI2\nt(I0\nI-1\nt", "a tensor's stride is negative");
}

static void
test_numbers_of_elements_that_overflow(void)
{
    /* 2^32 * 2^32; 2^62 * 4; 2^61 * 4 bytes */
    BAD_V2(SIX I("0") "(I4294967296\nI4294967296\nt(I0\nI0\nt",
           "a tensor's number of elements overflows");
    BAD_V2(SIX I("0") "(I4611686018427387904\nt(I0\nt",
           "a tensor's size in bytes overflows");
    BAD_V2(SIX I("0") "(I2305843009213693952\nt(I0\nt",
           "a tensor's size in bytes overflows");
    REFUSED(BAD("_rebuild_meta_tensor_no_storage",
                "ctorch\nfloat64\n(I4294967296\nI4294967296\nt(I0\nI0\nt" FALSE_),
            PSD_TENSOR, "a tensor's number of elements overflows",
            "_rebuild_meta_tensor_no_storage", false, 0, 0);
}

static void
test_too_many_dimensions(void)
{
    char program[2048] = "ctorch._utils\n_rebuild_tensor\n(" SIX "I0\n(";
    for (unsigned part = 0; part < 2; part++) {
        for (unsigned i = 0; i < 65; i++) {
            strcat(program, "K\x01");
        }
        strcat(program, part == 0 ? "t(" : "t");
    }
    strcat(program, "t^R.");
    const psd_span marked = {(const uint8_t *)program, strlen(program)};
    psd_limits limits = psd_default_limits();
    refusal e = {PSD_LIMIT, "a tensor has more dimensions than NumPy can hold",
                 "",        true,
                 65,        64};
    check_refused(marked, &limits, &e, __LINE__);
    limits.rank = 100; /* never above 64, whatever the caller says */
    check_refused(marked, &limits, &e, __LINE__);
    limits.rank = 1;
    e.found = 2;
    e.limit = 1;
    check_refused(PSD_LITERAL(BAD("_rebuild_tensor", WHOLE) "."), &limits, &e,
                  __LINE__);
}

/* ---------------------------------------------------------------- the other forms */

#define PARAMETER "ctorch.nn.parameter\nParameter\n"
#define BAD_PARAMETER(program, sentence) \
    REFUSED(program, PSD_TENSOR, sentence, "Parameter", false, 0, 0)

static void
test_parameters(void)
{
    REFUSED(BAD("_rebuild_parameter", TENSOR TRUE_), PSD_TENSOR,
            "_rebuild_parameter has not three arguments", "_rebuild_parameter", false,
            0, 0);
    REFUSED(BAD("_rebuild_parameter", "N" TRUE_ HOOKS), PSD_TENSOR,
            "a Parameter's data is not a tensor", "_rebuild_parameter", false, 0, 0);
    REFUSED(BAD("_rebuild_parameter", SIX TRUE_ HOOKS), PSD_TENSOR,
            "a Parameter's data is not a tensor", "_rebuild_parameter", false, 0, 0);
    REFUSED(BAD("_rebuild_parameter", TENSOR "I1\n" HOOKS), PSD_TENSOR,
            "a Parameter's requires_grad is not a bool", "_rebuild_parameter", false, 0,
            0);
    REFUSED(BAD("_rebuild_parameter_with_state", TENSOR TRUE_ HOOKS), PSD_TENSOR,
            "_rebuild_parameter_with_state has not four arguments",
            "_rebuild_parameter_with_state", false, 0, 0);
    BAD_PARAMETER(PARAMETER ")^R", "a Parameter has no data");
    BAD_PARAMETER(PARAMETER "(Nt^R", "a Parameter's data is not a tensor");
    BAD_PARAMETER(PARAMETER "(" TENSOR "Nt^R",
                  "a Parameter's requires_grad is not a bool");
    BAD_PARAMETER(PARAMETER "(" TENSOR "t^R(" TRUE_ FALSE_ "tb",
                  "a Parameter's state has not three or five parts");
    BAD_PARAMETER(PARAMETER "(" TENSOR "t^R(db",
                  "a Parameter's state has not three or five parts");
    BAD_PARAMETER(PARAMETER ")^R(NN" HOOKS TRUE_ FALSE_ "tb",
                  "a Parameter's data is not a tensor");
}

static void
test_tensors_filled_by_build(void)
{
    static const char four[] = "a tensor is filled with something else than four parts";
    REFUSED("ctorch\nFloatTensor\n)^R(" SIX I("0") "(I6\nttb", PSD_TENSOR, four,
            "FloatTensor", false, 0, 0);
    REFUSED("ctorch\nTensor\n)^R(db", PSD_TENSOR, four, "Tensor", false, 0, 0);
    REFUSED("ctorch\nIntTensor\n)^R(" WHOLE "tb", PSD_TENSOR,
            "a tensor's class is not that of its storage", "IntTensor", false, 0, 0);
    REFUSED("ctorch\nFloatTensor\n)^R(" SIX I("4") TWO_BY_THREE "tb", PSD_TENSOR,
            "a tensor reaches beyond its storage", "FloatTensor", true, 9, 6);
}

/* In torch a state makes a finished tensor a window on another storage. */
static void
test_tensors_that_are_filled_again(void)
{
    static const char again[] = "a tensor that is complete is given a state";
    static const char container[] = "a tensor is filled as if it were a container";
    REFUSED(BAD("_rebuild_tensor_v2", WHOLE FALSE_ HOOKS) "(" WHOLE "tb", PSD_TENSOR,
            again, "_rebuild_tensor_v2", false, 0, 0);
    REFUSED(BAD("_rebuild_parameter", TENSOR TRUE_ HOOKS) "(db", PSD_TENSOR, again,
            "_rebuild_parameter", false, 0, 0);
    REFUSED(BAD("_rebuild_tensor", WHOLE) "I1\na", PSD_TENSOR, container,
            "_rebuild_tensor", false, 0, 0);
    REFUSED(BAD("_rebuild_tensor", WHOLE) "Va\nI1\ns", PSD_TENSOR, container,
            "_rebuild_tensor", false, 0, 0);
    REFUSED("ctorch\nFloatTensor\n)^R(" WHOLE "tbI1\na", PSD_TENSOR, container,
            "FloatTensor", false, 0, 0);
    BAD_PARAMETER(PARAMETER "(" TENSOR "t^RVa\nI1\ns", container);
}

#define FROM_TYPE "ctorch._tensor\n_rebuild_from_type_v2\n"
#define BAD_RETYPED(args, sentence)                                                  \
    REFUSED(FROM_TYPE "(" args "t^R", PSD_TENSOR, sentence, "_rebuild_from_type_v2", \
            false, 0, 0)

static void
test_retyped_tensors(void)
{
    static const char wrong[] = "_rebuild_from_type has wrong arguments";
    BAD_RETYPED("", "_rebuild_from_type has not four arguments");
    BAD_RETYPED("NNN", "_rebuild_from_type has not four arguments");
    BAD_RETYPED("NNNNN", "_rebuild_from_type has not four arguments");
    BAD_RETYPED("Nctorch\nTensor\n)(d", wrong);
    BAD_RETYPED("ctorch._utils\n_rebuild_tensor_v2\nN)(d", wrong);
    BAD_RETYPED("ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n](d", wrong);
    REFUSED(FROM_TYPE "(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n)(dt^R",
            PSD_TENSOR, "a rebuild function has a wrong number of arguments",
            "_rebuild_from_type_v2", true, 0, 6);
}

static void
test_meta_and_device_tensors(void)
{
    static const char meta[] = "a meta tensor has wrong arguments";
    static const char device[] = "a device tensor has wrong arguments";
#define BAD_META(args, sentence)                                                \
    REFUSED(BAD("_rebuild_meta_tensor_no_storage", args), PSD_TENSOR, sentence, \
            "_rebuild_meta_tensor_no_storage", false, 0, 0)
#define BAD_DEVICE(args, sentence)                                                     \
    REFUSED(BAD("_rebuild_device_tensor_from_cpu_tensor", args), PSD_TENSOR, sentence, \
            "_rebuild_device_tensor_from_cpu_tensor", false, 0, 0)
    BAD_META("ctorch\nfloat32\n" TWO_BY_THREE, meta);
    BAD_META("ctorch\nfloat32\n" TWO_BY_THREE "N", meta);
    BAD_META("N" TWO_BY_THREE FALSE_, "a tensor's dtype is not a dtype of torch");
    BAD_META("ctorch\nfloat32\n(I1\nt(t" FALSE_,
             "a tensor has not as many strides as sizes");
    BAD_DEVICE(TENSOR "ctorch\nfloat32\n" FALSE_, device);
    BAD_DEVICE("Nctorch\nfloat32\nVxla:0\n" FALSE_, device);
    BAD_DEVICE(TENSOR "ctorch\nfloat32\nVxla:0\nI0\n", device);
    BAD_DEVICE(TENSOR "ctorch\nfloat64\nVxla:0\n" FALSE_,
               "a device tensor's dtype is not that of its data");
#undef BAD_META
#undef BAD_DEVICE
}

int
main(void)
{
    RUN(test_persistent_ids);
    RUN(test_numbers_of_elements);
    RUN(test_storages_that_contradict);
    RUN(test_huge_texts_of_storages);
    RUN(test_numbers_of_arguments);
    RUN(test_arguments_that_are_no_tuple);
    RUN(test_storage_and_offset);
    RUN(test_flags);
    RUN(test_metadata_beyond_all_bounds);
    RUN(test_bits_that_are_not_set);
    RUN(test_forms_of_sizes);
    RUN(test_windows_beyond_the_storage);
    RUN(test_reaches_that_wrap);
    RUN(test_negative_numbers);
    RUN(test_numbers_of_elements_that_overflow);
    RUN(test_too_many_dimensions);
    RUN(test_parameters);
    RUN(test_tensors_filled_by_build);
    RUN(test_tensors_that_are_filled_again);
    RUN(test_retyped_tensors);
    RUN(test_meta_and_device_tensors);
    return check_report();
}
