"""Users' data: upload, list, delete."""

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from app.documents import Document
from app.routes.asking import AService, AStore
from app.schemas import described

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])

Name = Annotated[str | None, Form(pattern=r"^[\w.-]{1,100}$", description="The file's stem by default.")]


@router.post("", status_code=201)
def upload(file: Annotated[UploadFile, File()], service: AService, name: Name = None) -> Document:
    """Store an ``.npz`` (without pickles), ``.csv``, ``.parquet`` or ``.txt`` file as a data set."""
    return service.upload(file.filename or "", file.file.read(), name)


@router.get("")
def listed(service: AService) -> dict[str, list[Document]]:
    """The built-in data sets with their settings, and the uploaded ones."""
    return {"datasets": described("datasets"), "uploads": service.datasets()}


@router.delete("/{name}", status_code=204)
def delete(name: str, store: AStore) -> None:
    """Delete an uploaded data set."""
    store.delete_upload(name)
