# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a policy does with recordings: where it looks, what it imagines, what it would do."""
