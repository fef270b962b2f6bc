"""Medical images: a folder in, a folder out."""

from __future__ import annotations

from voxweft.apps.medical.batch import BatchReport, batch
from voxweft.apps.medical.book import CaseResult
from voxweft.apps.medical.options import BatchExecution, MedicalOptions

__all__ = ["BatchExecution", "BatchReport", "CaseResult", "MedicalOptions", "batch"]
