# SPDX-License-Identifier: Apache-2.0
"""One HTML file of one or several evaluations, with everything in it: tables, figures, films, filters."""
