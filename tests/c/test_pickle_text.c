/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers that are written as text: exact to the last bit, in any locale.
 */
#include <langinfo.h>
#include <locale.h>
#include <math.h>

#include "pickle_kit.h"

/* libc's own, but that a test may put another decimal point in the locale. */
static struct lconv fake;
static char *fake_point;

struct lconv *
localeconv(void)
{
    fake.decimal_point = fake_point != NULL ? fake_point : nl_langinfo(RADIXCHAR);
    return &fake;
}

/* Decimal against binary: 10^n and its neighbours, by repeated multiplication. */
static void
long_decimals_are_exact(void)
{
    enum { DIGITS = 600, SIZE = 300 };
    uint8_t power[SIZE] = {1}; /* 10^n, little-endian */
    char text[DIGITS + 8];
    for (size_t n = 1; n <= DIGITS; n++) {
        unsigned carry = 0;
        for (size_t i = 0; i < SIZE; i++) {
            carry += power[i] * 10u;
            power[i] = (uint8_t)carry;
            carry >>= 8;
        }
        for (int sign = 0; sign < 2; sign++) {
            size_t size = (size_t)snprintf(text, sizeof text, "L%s1", sign ? "-" : "");
            memset(text + size, '0', n);
            memcpy(text + size + n, "L\n.", 3);
            reading r;
            run(&r, (psd_span){(const uint8_t *)text, size + n + 3});
            CHECK_UINT(r.status, PSD_OK);
            const psd_value *v = psd_value_at(&r.pool, r.pickle.root);
            uint8_t found[SIZE];
            if (n <= 18) {
                CHECK_UINT(v->kind, PSD_KIND_INT);
                memset(found, v->as.integer < 0 ? 0xFF : 0, SIZE);
                psd_store_le64(found, (uint64_t)v->as.integer);
            }
            else {
                CHECK_UINT(v->kind, PSD_KIND_LONG);
                CHECK(v->count > 8 && v->count < SIZE);
                memset(found, v->as.bytes[v->count - 1] >> 7 ? 0xFF : 0, SIZE);
                memcpy(found, v->as.bytes, v->count);
                /* As short as can be. */
                uint8_t last = v->as.bytes[v->count - 1];
                uint8_t before = v->as.bytes[v->count - 2];
                CHECK((last != 0 && last != 0xFF) || ((last ^ before) & 0x80) != 0);
            }
            unsigned sum = 0; /* found - sign * power, which must be 0 */
            bool equal = true;
            for (size_t i = 0; i < SIZE; i++) {
                uint8_t subtrahend = sign ? power[i] : (uint8_t)~power[i];
                sum += (unsigned)found[i] + subtrahend + (i == 0 && !sign ? 1u : 0u);
                equal = equal && (uint8_t)sum == 0;
                sum >>= 8;
            }
            CHECK(equal);
            finish(&r);
        }
    }
}

/* --------------------------------------------------------------------- floats */

static bool
reads_float(const char *text, double *v)
{
    char program[512];
    int size = snprintf(program, sizeof program, "F%s\n.", text);
    reading r;
    run(&r, (psd_span){(const uint8_t *)program, (size_t)size});
    bool done = r.status == PSD_OK;
    *v = done ? psd_value_at(&r.pool, r.pickle.root)->as.real : 0;
    finish(&r);
    return done;
}

/* Written in the C locale, read in `locale`. */
static void
check_random_floats(const char *locale, int count)
{
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        double v, found;
        memcpy(&v, &state, sizeof v);
        if (isfinite(v)) {
            char text[64];
            setlocale(LC_NUMERIC, "C");
            snprintf(text, sizeof text, "%.17g", v);
            setlocale(LC_NUMERIC, locale);
            CHECK(reads_float(text, &found) && memcmp(&v, &found, sizeof v) == 0);
        }
    }
}

static void
floats_come_back_to_the_last_bit(void)
{
    check_random_floats("C", 20000);
}

static void
floats_are_spelled_as_repr_spells_them(void)
{
    static const struct {
        const char *text;
        double v;
    } good[] = {
        {"0.0", 0.0},
        {"1", 1.0},
        {"+2.", 2.0},
        {".5", 0.5},
        {"1e5", 1e5},
        {"1E+05", 1e5},
        {"-1.25e-3", -1.25e-3},
        {"1e-400", 0.0},
        {"5e-324", 5e-324},
        {"1.7976931348623157e+308", 1.7976931348623157e+308},
        {"inf", (double)INFINITY},
        {"-inf", -(double)INFINITY},
        {"1.#INF", (double)INFINITY},
        {"-1.#INF", -(double)INFINITY},
    };
    static const char *const nans[] = {"nan", "-nan", "1.#QNAN", "-1.#IND"};
    static const char *const bad[] = {
        "",       "+",     ".",      "e5",    "1e",   "1e+",  "1,5",
        "1 ",     " 1",    "0x1p3",  "1.5.5", "1_0",  "INF",  "infinity",
        "nan(1)", "1e400", "-1e309", "--1",   "1.5f", "+inf", "1e5.0",
    };
    double v;
    for (size_t i = 0; i < LENGTH(good); i++) {
        CHECK(reads_float(good[i].text, &v) && v == good[i].v);
    }
    CHECK(reads_float("-0.0", &v) && v == 0 && signbit(v));
    for (size_t i = 0; i < LENGTH(nans); i++) {
        CHECK(reads_float(nans[i], &v) && isnan(v));
    }
    for (size_t i = 0; i < LENGTH(bad); i++) {
        CHECK(!reads_float(bad[i], &v));
    }
    char text[140];
    memset(text, '0', sizeof text);
    text[128] = '\0';
    CHECK(reads_float(text, &v) && v == 0);
    text[128] = '0';
    text[129] = '\0';
    CHECK(!reads_float(text, &v));
}

/* Where the system has a locale with another decimal point. */
static void
floats_do_not_depend_on_the_locale(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE",
                                        "ps_AF.UTF-8"};
    for (size_t i = 0; i < LENGTH(names); i++) {
        if (setlocale(LC_NUMERIC, names[i]) != NULL) {
            printf("decimal point: %s\n", localeconv()->decimal_point);
            check_random_floats(names[i], 1000);
            floats_are_spelled_as_repr_spells_them();
        }
    }
    setlocale(LC_NUMERIC, "C");
}

/* No locale of today has such a point; one that had would not overrun the room. */
static void
a_long_decimal_point_is_refused(void)
{
    static char points[] = "................................................";
    double v;
    char digits[140] = "1.";
    memset(digits + 2, '5', 126);
    CHECK(reads_float(digits, &v));
    fake_point = points;
    CHECK(!reads_float("1.5", &v));
    CHECK(!reads_float(digits, &v));
    CHECK(reads_float("15", &v) && v == 15); /* it has no point */
    fake_point = NULL;
    CHECK(reads_float("1.5", &v) && v == 1.5);
}

int
main(void)
{
    RUN(long_decimals_are_exact);
    RUN(floats_come_back_to_the_last_bit);
    RUN(floats_are_spelled_as_repr_spells_them);
    RUN(floats_do_not_depend_on_the_locale);
    RUN(a_long_decimal_point_is_refused);
    return check_report();
}
