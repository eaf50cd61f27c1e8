"""The CPU compute path: a fast BLAS, faster element-wise kernels, and streams that use all cores. Unused on a GPU."""
