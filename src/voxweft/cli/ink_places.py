"""INPUT and OUTPUT of the commands of ink detection."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from voxweft.apps.ink.options import InkPartOptions, LayerOptions, PictureOptions

Source = Annotated[
    str, typer.Argument(metavar="[INPUT]", help="Segment with layers/, or a surface volume; in place of S3_PATH.")
]
Target = Annotated[str, typer.Argument(metavar="[OUTPUT]", help="PNG, TIFF or .zarr; in place of OUTPUT_PATH.")]


def placed(layers: Any, picture_options: Any, source: str, target: str) -> tuple[LayerOptions, PictureOptions]:
    """The options with INPUT and OUTPUT in their places."""
    picture_options = replace(picture_options, output_path=target) if target else picture_options
    if not source:
        return layers, picture_options
    if source.rstrip("/").endswith(".zarr"):
        return replace(layers, surface_volume_zarr=source), picture_options
    return replace(layers, s3_path=source, surface_volume_zarr=""), picture_options


def beside_output(
    part: InkPartOptions, picture_options: PictureOptions, context: typer.Context
) -> tuple[InkPartOptions, PictureOptions]:
    """Unfinished results beside OUTPUT, no note for a workflow engine: nothing in folders that users share.

    What was said by a flag or a variable stays as it was said.
    """

    def is_said(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name != "DEFAULT"

    if not is_said("zarr_output_dir"):
        part = replace(part, zarr_output_dir=f"{picture_options.output_path.rpartition('.')[0]}.voxweft")
    return part, picture_options if is_said("runtime_dir") else replace(picture_options, runtime_dir="")
