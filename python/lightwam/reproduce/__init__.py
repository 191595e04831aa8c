# SPDX-License-Identifier: Apache-2.0
"""A result made again, from recordings to a report: plans of commands, their estimates, and what runs them."""
