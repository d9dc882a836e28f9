"""Costs of batches, as machines and networks may have them."""

from hypothesis import strategies as st

from app.engine.runtimes.cost import Cost

costs = st.builds(
    Cost, st.floats(1e-6, 1e-1), st.floats(1e-7, 1e-3), st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 0.1)
)
