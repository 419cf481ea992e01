"""What jobs can be made of: every registry with the JSON schema of its parts' settings."""

from fastapi import APIRouter

from app.documents import Document
from app.schemas import described

router = APIRouter(prefix="/api/v1", tags=["registries"])


@router.get("/networks")
def networks() -> list[Document]:
    """Architectures."""
    return described("networks")


@router.get("/losses")
def losses() -> list[Document]:
    """Losses."""
    return described("losses")


@router.get("/penalties")
def penalties() -> list[Document]:
    """Penalties."""
    return described("penalties")


@router.get("/methods")
def methods() -> list[Document]:
    """Ways to trace a front."""
    return described("methods")


@router.get("/exports")
def exports() -> list[Document]:
    """File formats of networks."""
    return described("exports")
