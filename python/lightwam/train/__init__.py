# SPDX-License-Identifier: Apache-2.0
"""Training: the VAE, the policy, the blind baseline."""
