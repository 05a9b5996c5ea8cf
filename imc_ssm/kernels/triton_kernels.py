"""The fused GPU kernels (Triton): one pass over time per tile of sequences, states in registers.

Only `cuda` imports this module: it needs Triton. The arithmetic is that of `fixedpoint.ScanPlan`, in 32- or 64-bit
integers, or float32 in full precision: one kernel each way serves both (INTEGER).

A row is one head of one sequence, row = sequence * heads + head; a tile is ROWS rows times STATES states (powers
of two; what lies beyond the data is masked and stays zero). Arrays: u, y, grad, grad_u (row, time); x0, last (row,
`stored`, 2): states, centred on their zero point, with feedback their residuals, with PERIODS one row, the sum of
the inputs since the head's last update; `table` (plane, head, state) in the word of the arithmetic: real and
imaginary parts of a, b, c with the multipliers folded in, the multiplier of the noise, and for integers shift,
shift_b, low, high; `clip`: bound of a state in full precision; `real` (6, head, state) float32: a, b, c as real
numbers; `inputs` (3 or more, head) float32: scale, low, high; `outputs` (4, head) int64: m_y, shift_y, low, high;
`unit` (head,) float64: real value of one step of the output; `rates` (head,) int32: log2 of the steps between two
updates of a head; `first`: steps done before these; `key` (3,) int64: seed, first sample, first time step;
`gauss`: the table of `fixedpoint.normal`. ROUNDING is that of the state, NEAREST that of the output, RESIDUAL the
length of a residual.
"""

# Triton reads the parameters' annotations itself: only constants have one.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

import triton
import triton.language as tl

from imc_ssm.kernels.triton_steps import (
    FLAGS,
    FREE,
    FREE_A,
    FREE_B,
    FREE_Y,
    begun,
    chosen,
    coefficients,
    counters_of,
    gated,
    input_code,
    input_rule,
    numbered,
    output_rule,
    rate_of,
    read_out,
    registers_of,
    state_rule,
    updated,
)

__all__ = ["backward", "forward"]


@triton.jit(do_not_specialize=["first"])
def forward(
    u, y, x0, last, table, inputs, outputs, unit, rates, first, key, gauss, clip, rows, heads, states, stored,
    time, ROWS: tl.constexpr, STATES: tl.constexpr, INTEGER: tl.constexpr, NOISE: tl.constexpr,
    SEPARATE: tl.constexpr, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr, NEAREST: tl.constexpr,
    RESIDUAL: tl.constexpr, PERIODS: tl.constexpr, CLIP: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """y and the last state. One program per tile."""
    # In full precision SPAN steps one after another in the code are a fifth faster; integers become slower.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid, head, state = row < rows, (row % heads).to(tl.int32), tl.arange(0, STATES)
    inside = valid[:, None] & (state < states)[None, :]
    plane = heads * states
    planes = table + head[:, None] * states + state[None, :]
    k, m_z = coefficients(planes, plane, inside), tl.load(planes + 6 * plane, inside, 0)
    rule = state_rule(planes, plane, inside, clip, INTEGER, ROUNDING, RESIDUAL)
    read = input_rule(inputs, head, heads, valid, INTEGER)
    output = output_rule(outputs, head, heads, valid, QUANTIZED, NEAREST)
    counters = counters_of(key, row, heads, state, NOISE)
    register = registers_of(head, states, state)
    rate, clock = rate_of(rates, head, valid, PERIODS), tl.zeros((ROWS,), tl.int64) + first
    scale = 1.0
    if INTEGER:
        scale = tl.load(unit + head, valid, 0.0)
    word = table.dtype.element_ty
    kept, total = begun(x0, row, states, stored, state, inside, valid, word, ROUNDING, PERIODS)
    out = read_out(kept, k, output, scale, INTEGER, QUANTIZED, NEAREST)
    for t in tl.range(time, loop_unroll_factor=1 if INTEGER else SPAN):
        v = tl.load(u + row * time + t, valid, 0.0)
        if INTEGER:
            v, _ = input_code(v, read)
        update, due = numbered(clock, t, rate, PERIODS)
        if PERIODS:
            total += v.to(word)
            if tl.max(due.to(tl.int32), axis=0) > 0:
                new, _flags_r, _flags_i = updated(
                    kept, total[:, None], k, m_z, rule, counters, gauss, t, update, register, INTEGER, NOISE,
                    SEPARATE, ROUNDING, CLIP,
                )  # fmt: skip
                kept = chosen(due, new, kept)
                total = tl.where(due, 0, total)
                out = read_out(kept, k, output, scale, INTEGER, QUANTIZED, NEAREST)
        else:
            kept, _, _ = updated(
                kept, v.to(word)[:, None], k, m_z, rule, counters, gauss, t, update, register, INTEGER, NOISE,
                SEPARATE, ROUNDING, CLIP,
            )  # fmt: skip
            out = read_out(kept, k, output, scale, INTEGER, QUANTIZED, NEAREST)
        tl.store(y + row * time + t, out.to(y.dtype.element_ty), valid)
    at = last + 2 * (row[:, None] * stored + state[None, :])
    tl.store(at, kept[0].to(last.dtype.element_ty), inside)
    tl.store(at + 1, kept[1].to(last.dtype.element_ty), inside)
    if ROUNDING == "feedback":
        tl.store(at + 2 * states, kept[2].to(last.dtype.element_ty), inside)
        tl.store(at + 2 * states + 1, kept[3].to(last.dtype.element_ty), inside)
    if PERIODS:
        end = last + 2 * (row + 1) * stored - 2
        tl.store(end, total.to(last.dtype.element_ty), valid)
        tl.store(end + 1, tl.zeros((ROWS,), last.dtype.element_ty), valid)


@triton.jit
def _freed(e, flags, FLAG: tl.constexpr):
    """The gradient where the rounding did not saturate."""
    return tl.where((flags & FLAG) != 0, e, 0.0)


@triton.jit(do_not_specialize=["first"])
def backward(
    u, grad, grad_u, sums, x0, table, real, inputs, outputs, rates, first, key, gauss, tape, clamp, clip, rows,
    heads, states, stored, time, ROWS: tl.constexpr, STATES: tl.constexpr, INTEGER: tl.constexpr,
    NOISE: tl.constexpr, SEPARATE: tl.constexpr, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr,
    NEAREST: tl.constexpr, RESIDUAL: tl.constexpr, PERIODS: tl.constexpr, CLAMP: tl.constexpr, CLIP: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    """Gradients for grad = dL/dy: grad_u, and sums (row, 6, state) over time for a, b, c (real and imaginary).

    Each of the programs works through every so-many-th tile: it runs the states again from x0 and writes what is
    kept in front of every span of SPAN steps on its part of the tape (program, span, STEP). Then it goes back,
    span by span: it runs the steps of a span once more, whose states now stay in registers, and back through them.
    e is the gradient of the state before its rounding. The sums hold e conj(x[t-1]), e u[t] and g conj(x[t]), with
    states and inputs as centred codes for integers. An update of a slow head has the sum of its steps' inputs.
    """
    program, state, local = tl.program_id(0), tl.arange(0, STATES), tl.arange(0, ROWS)
    cell = local[:, None] * STATES + state[None, :]
    HALF: tl.constexpr = ROWS * STATES
    FEEDBACK: tl.constexpr = ROUNDING == "feedback"
    STEP: tl.constexpr = (4 if FEEDBACK else 2) * HALF + (ROWS if PERIODS else 0)
    spans = tl.cdiv(time, SPAN)
    own = tape + program.to(tl.int64) * spans * STEP
    word = table.dtype.element_ty
    mark = tape.dtype.element_ty
    for tile in range(program, tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = local + tile * tl.full((ROWS,), ROWS, tl.int64)
        valid, head = row < rows, (row % heads).to(tl.int32)
        inside = valid[:, None] & (state < states)[None, :]
        plane, at = heads * states, head[:, None] * states + state[None, :]
        k, m_z = coefficients(table + at, plane, inside), tl.load(table + 6 * plane + at, inside, 0)
        rule = state_rule(table + at, plane, inside, clip, INTEGER, ROUNDING, RESIDUAL)
        read = input_rule(inputs, head, heads, valid, INTEGER)
        output = output_rule(outputs, head, heads, valid, QUANTIZED, NEAREST)
        counters = counters_of(key, row, heads, state, NOISE)
        register = registers_of(head, states, state)
        rate, clock = rate_of(rates, head, valid, PERIODS), tl.zeros((ROWS,), tl.int64) + first
        kept, total = begun(x0, row, states, stored, state, inside, valid, word, ROUNDING, PERIODS)
        waiting = total
        # Threads may read what others wrote: nobody overwrites or reads the tape before all are here.
        tl.debug_barrier()
        slot = own
        for span in range(spans):
            tl.store(slot + cell, kept[0].to(mark))
            tl.store(slot + HALF + cell, kept[1].to(mark))
            if FEEDBACK:
                tl.store(slot + 2 * HALF + cell, kept[2].to(mark))
                tl.store(slot + 3 * HALF + cell, kept[3].to(mark))
            if PERIODS:
                tl.store(slot + STEP - ROWS + local, total.to(mark))
            slot += STEP
            if span < spans - 1:
                for step in tl.static_range(SPAN):
                    t = span * SPAN + step
                    v = tl.load(u + row * time + t, valid, 0.0)
                    if INTEGER:
                        v, _ = input_code(v, read)
                    update, due = numbered(clock, t, rate, PERIODS)
                    if PERIODS:
                        total += v.to(word)
                        if tl.max(due.to(tl.int32), axis=0) > 0:
                            new, _flags_r, _flags_i = updated(
                                kept, total[:, None], k, m_z, rule, counters, gauss, t, update, register, INTEGER,
                                NOISE, SEPARATE, ROUNDING, CLIP,
                            )  # fmt: skip
                            kept = chosen(due, new, kept)
                            total = tl.where(due, 0, total)
                    else:
                        kept, _, _ = updated(
                            kept, v.to(word)[:, None], k, m_z, rule, counters, gauss, t, update, register, INTEGER,
                            NOISE, SEPARATE, ROUNDING, CLIP,
                        )  # fmt: skip
        tl.debug_barrier()
        ar, ai, br, bi, cr, ci = coefficients(real + at, plane, inside)
        zero = tl.zeros((ROWS, STATES), tl.float32)
        gr, gi, sar, sai, sbr, sbi, scr, sci = zero, zero, zero, zero, zero, zero, zero, zero
        dr, di, gu = zero, zero, tl.zeros((ROWS,), tl.float32)
        for back in range(spans):
            slot -= STEP
            begin = (spans - 1 - back) * SPAN
            kr, ki = tl.load(slot + cell), tl.load(slot + HALF + cell)
            er, ei = kr, ki
            if FEEDBACK:
                er, ei = tl.load(slot + 2 * HALF + cell), tl.load(slot + 3 * HALF + cell)
            kept = kr.to(word), ki.to(word), er.to(word), ei.to(word)
            if PERIODS:
                total = tl.load(slot + STEP - ROWS + local).to(word)
                gate = gated(kept, k, output, QUANTIZED, NEAREST)
            if INTEGER:
                kr, ki = kr << FLAGS, ki << FLAGS
            # Words of the states in front of and behind each step; what lies beyond the end has no gradient.
            real_words, imag_words = (kr,), (ki,)
            for step in tl.static_range(SPAN):
                t = begin + step
                v = tl.load(u + row * time + t, valid & (t < time), 0.0)
                if INTEGER:
                    v, _ = input_code(v, read)
                update, due = numbered(clock, t, rate, PERIODS)
                if PERIODS:
                    total += v.to(word)
                    flags_r, flags_i = tl.zeros((ROWS, STATES), tl.int32), tl.zeros((ROWS, STATES), tl.int32)
                    if tl.max(due.to(tl.int32), axis=0) > 0:
                        new, flags_r, flags_i = updated(
                            kept, total[:, None], k, m_z, rule, counters, gauss, t, update, register, INTEGER,
                            NOISE, SEPARATE, ROUNDING, CLIP,
                        )  # fmt: skip
                        kept = chosen(due, new, kept)
                        total = tl.where(due, 0, total)
                        gate = gated(kept, k, output, QUANTIZED, NEAREST)
                else:
                    new, flags_r, flags_i = updated(
                        kept, v.to(word)[:, None], k, m_z, rule, counters, gauss, t, update, register, INTEGER,
                        NOISE, SEPARATE, ROUNDING, CLIP,
                    )  # fmt: skip
                if INTEGER:
                    if not PERIODS:
                        kept = new
                        gate = gated(kept, k, output, QUANTIZED, NEAREST)
                    kr = (kept[0] << FLAGS).to(mark) + flags_r + gate
                    ki = (kept[1] << FLAGS).to(mark) + flags_i + gate
                else:
                    kr, ki = tl.where(t < time, new[0], kept[0]), tl.where(t < time, new[1], kept[1])
                    kept = kr, ki, kr, ki
                real_words, imag_words = real_words + (kr,), imag_words + (ki,)  # noqa: RUF005
            for step in tl.static_range(SPAN):
                t = begin + SPAN - 1 - step
                kr, ki = real_words[SPAN - step], imag_words[SPAN - step]
                before_r, before_i = real_words[SPAN - 1 - step], imag_words[SPAN - 1 - step]
                there = valid & (t < time)
                v = tl.load(u + row * time + t, there, 0.0)
                g = 2 * tl.load(grad + row * time + t, there, 0.0)[:, None]
                if INTEGER:
                    v, free_u = input_code(v, read)
                    g = _freed(g, kr, FREE_Y)
                    nr, ni = (kr >> FLAGS).to(tl.float32), (ki >> FLAGS).to(tl.float32)
                    pr, pi = (before_r >> FLAGS).to(tl.float32), (before_i >> FLAGS).to(tl.float32)
                else:
                    nr, ni, pr, pi = kr, ki, before_r, before_i
                scr += g * nr
                sci -= g * ni
                hr, hi = gr + cr * g, gi - ci * g
                er, ei = hr, hi
                if INTEGER:
                    er, ei = _freed(er, kr, FREE), _freed(ei, ki, FREE)
                elif CLIP:
                    er, ei = tl.where(tl.abs(kr) < clip, er, 0.0), tl.where(tl.abs(ki) < clip, ei, 0.0)
                if CLAMP:
                    er, ei = tl.clamp(er, -clamp, clamp), tl.clamp(ei, -clamp, clamp)
                fr, fi = er, ei
                if SEPARATE:
                    fr, fi = _freed(er, kr, FREE_B), _freed(ei, ki, FREE_B)
                    er, ei = _freed(er, kr, FREE_A), _freed(ei, ki, FREE_A)
                if PERIODS:
                    _, due = numbered(clock, t, rate, PERIODS)
                    here = due[:, None]
                    er, ei = tl.where(here, er, 0.0), tl.where(here, ei, 0.0)
                    dr, di = tl.where(here, fr, dr), tl.where(here, fi, di)
                    gu = tl.where(due, tl.sum(dr * br + di * bi, axis=1), gu)
                else:
                    dr, di = fr, fi
                    gu = tl.sum(dr * br + di * bi, axis=1)
                sbr += dr * v[:, None]
                sbi += di * v[:, None]
                to_u = gu
                if INTEGER:
                    to_u = tl.where(free_u, gu, 0.0)
                tl.store(grad_u + row * time + t, to_u, there)
                sar += er * pr + ei * pi
                sai += ei * pr - er * pi
                gr, gi = ar * er + ai * ei, ar * ei - ai * er
                if PERIODS:
                    gr, gi = tl.where(here, gr, hr), tl.where(here, gi, hi)
        if PERIODS:
            sbr += dr * waiting.to(tl.float32)[:, None]
            sbi += di * waiting.to(tl.float32)[:, None]
        out = sums + row[:, None] * (6 * states) + state[None, :]
        tl.store(out, sar, inside)
        tl.store(out + states, sai, inside)
        tl.store(out + 2 * states, sbr, inside)
        tl.store(out + 3 * states, sbi, inside)
        tl.store(out + 4 * states, scr, inside)
        tl.store(out + 5 * states, sci, inside)
