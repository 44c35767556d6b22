"""What a SuperAdmin types about nodes and storages. No rules: the services know them."""

from __future__ import annotations

from django import forms

from definitions.forms import StyledForm
from vaults.models import Region


class NodeForm(StyledForm):
    name = forms.SlugField(
        label="Name", max_length=64, help_text="Its worker is started with BACKUPSITE_NODE set to this name."
    )
    region = forms.ModelChoiceField(label="Region", queryset=Region.objects.order_by("code"))
    is_backup = forms.BooleanField(
        label="Backup node", required=False, initial=True, help_text="Copies (File, Dataset) may be kept on it."
    )


class StorageForm(StyledForm):
    name = forms.SlugField(label="Name", max_length=64)
    path = forms.CharField(
        label="Path", max_length=500, help_text="A directory of the node, as /srv/disks, or the name of a pool."
    )
