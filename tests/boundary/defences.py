"""Each defence of the boundary, how it is taken out, and the tests that must fail then (``mutations.py``).

Taking a defence out is what an honest mistake would look like: a flag that is gone, a check that is not made, a path
that is looked up by name. ``tests/unit/test_defences.py`` keeps these lists true to the source.
"""

from __future__ import annotations

import defences_a
import defences_b
import defences_c
import defences_d
import defences_e
import defences_f
import defences_g
import defences_h
import defences_i
import defences_j

DEFENCES = (
    *defences_a.DEFENCES,
    *defences_b.DEFENCES,
    *defences_c.DEFENCES,
    *defences_d.DEFENCES,
    *defences_e.DEFENCES,
    *defences_f.DEFENCES,
    *defences_g.DEFENCES,
    *defences_h.DEFENCES,
    *defences_i.DEFENCES,
    *defences_j.DEFENCES,
)
