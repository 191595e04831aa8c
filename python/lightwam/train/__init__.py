# SPDX-License-Identifier: Apache-2.0
"""Training: one step as published (`TrainStep`), the trainers of the VAE, the policy and the blind baseline."""

from lightwam.train.step import PublishedSchedule as PublishedSchedule
from lightwam.train.step import TrainStep as TrainStep
