/* ref.h: the kernels of the reference backend, and what the other backends may borrow from it. */
#ifndef REF_H
#define REF_H

#include "tensor/cpu/cpu.h"

int ref_conv(Cx *, const Call *), ref_conv_back(Cx *, const Call *);
int ref_norm(Cx *, const Call *), ref_norm_back(Cx *, const Call *);
int ref_attention(Cx *, const Call *), ref_attention_back(Cx *, const Call *);
int ref_act(Cx *, const Call *), ref_act_back(Cx *, const Call *);
int ref_add(Cx *, const Call *), ref_add_back(Cx *, const Call *);
int ref_rows(Cx *, const Call *), ref_rows_back(Cx *, const Call *);
int ref_concat(Cx *, const Call *), ref_concat_back(Cx *, const Call *);
int ref_resize(Cx *, const Call *), ref_resize_back(Cx *, const Call *);
int ref_repeat(Cx *, const Call *), ref_repeat_back(Cx *, const Call *);
int ref_rotate(Cx *, const Call *), ref_rotate_back(Cx *, const Call *);
int ref_blend(Cx *, const Call *), ref_blend_back(Cx *, const Call *);
int ref_first(Cx *, const Call *), ref_first_back(Cx *, const Call *);
int ref_embed(Cx *, const Call *), ref_embed_back(Cx *, const Call *);
int ref_mse(Cx *, const Call *), ref_mse_back(Cx *, const Call *);

size_t ref_norm_scratch(const Call *);      /* of the backward */
size_t ref_attention_scratch(const Call *); /* per thread */

/* An activation and its derivative (not GEGLU, which is value * GELU(gate)). */
double act_value(Act, double), act_slope(Act, double);

#endif
