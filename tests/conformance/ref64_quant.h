/* ref64_quant.h - what quantization means, in float64 and straight from the formulas of ds_quant.
 *
 * Steps that the contract has in f32 are rounded to f32 one by one, so that levels are exact.
 * Groups are given as arrays of n values.
 */
#ifndef CONFORMANCE_REF64_QUANT_H
#define CONFORMANCE_REF64_QUANT_H

#include "harness.h"

typedef struct scale64 {
  double s, z;
} scale64;

int64_t quant64_group(const ds_quant *q);  /* values that share a scale */
int64_t quant64_groups(const ds_quant *q); /* how many groups */
bool quant64_is_fp8(const ds_quant *q);
double quant64_qmax(const ds_quant *q);
double quant64_qmin(const ds_quant *q);

/* The value of a code, from the format's definition: sign, exponent, fraction. */
double quant64_fp8_value(int32_t qtype, int code);
/* The nearest finite value's code by looking at all of them; of two as near, the even one. */
int quant64_fp8_code(int32_t qtype, double v);

scale64 quant64_scale(const ds_quant *q, const double *x, int64_t n);
/* What is stored for x: an integer, or the bits of an fp8 value as a number from 0 to 255.
 * stretch: the quotient is first multiplied by it, to find out how near to a tie it is (1: not). */
double quant64_code(const ds_quant *q, scale64 s, double x, double stretch);
/* Whether an error of some ulp in scale or quotient could change what is stored for this x. */
bool quant64_unsure(const ds_quant *q, scale64 s, double x);
/* The same of the group's zero point. */
bool quant64_unsure_zero(const ds_quant *q, const double *x, int64_t n);
/* s * (q - z) */
double quant64_value(const ds_quant *q, scale64 s, double code);

/* Codes as the bytes of a slot of type DS_I8: two to a byte for DS_I4. */
int64_t quant64_bytes(const ds_quant *q);
void quant64_store(const ds_quant *q, slot *s, int64_t i, double code);
double quant64_load(const ds_quant *q, const slot *s, int64_t i);

#endif
