"""Layer maps: the teacher block that each student block learns from. Blocks are numbered from 1 here.

Entry 0 of the hidden states is the output of the embeddings, which is mapped to itself.
"""

from lissom.errors import InputError


def uniform(
    student: int, teacher: int, otherwise: str = "or list the teacher's blocks in layer_map"
) -> tuple[int, ...]:
    """Return g(m) = m N / M for m = 0..M: every (N / M)-th hidden state.

    Args:
        student: blocks M of the student.
        teacher: blocks N of the teacher.
        otherwise: what else a user can do if M does not divide N.

    Raises:
        InputError: M does not divide N.
    """
    if teacher % student:
        possible = [count for count in range(1, teacher + 1) if teacher % count == 0]
        raise InputError(
            f"{student} student blocks cannot be spread evenly over {teacher} teacher blocks; take one of {possible}, "
            f"{otherwise}"
        )
    return tuple(block * teacher // student for block in range(student + 1))


def patient(student: int, teacher: int, strategy: str) -> tuple[int, ...]:
    """Return the teacher blocks for student blocks 1..M-1 in BERT-PKD; the last block learns from the logits.

    Args:
        student: blocks M of the student.
        teacher: blocks N of the teacher.
        strategy: `skip` (every (N / M)-th block) or `last` (the blocks before the last).

    Raises:
        InputError: skip, and M does not divide N.
    """
    if strategy == "last":
        return tuple(teacher - student + block for block in range(1, student))
    return uniform(student, teacher, "or strategy: last")[1:-1]


def explicit(layer_map: tuple[int, ...], student: int, teacher: int) -> tuple[int, ...]:
    """Check a layer map from the params and return it for m = 0..M, with the embeddings as entry 0.

    Raises:
        InputError: not one teacher block for every student block, or a block that the teacher lacks.
    """
    if (
        len(layer_map) != student
        or list(layer_map) != sorted(layer_map)
        or not all(1 <= block <= teacher for block in layer_map)
    ):
        raise InputError(
            f"layer_map is {list(layer_map)}: {student} ascending teacher blocks of 1 to {teacher} are expected, "
            "one for each student block"
        )
    return (0, *layer_map)
